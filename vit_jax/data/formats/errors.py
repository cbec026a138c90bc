"""The error for images that cannot be read."""


class UnreadableError(Exception):
    """An image cannot be read. The message gives the reason."""
