"""Why an image is not read."""


class UnreadableError(Exception):
    """An image cannot be read; the message says why."""
