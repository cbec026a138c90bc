"""Errors of devices that run out of memory, as errors that the user can fix."""

import contextlib
from collections.abc import Iterator

import jax

from vit_jax.errors import ConfigError

# Columns of XLA's message that are shown: it says how much memory was asked for.
_SHOWN = 200


@contextlib.contextmanager
def explaining_exhaustion(path: str, hint: str) -> Iterator[None]:
    """Turn an error of XLA about too little memory, in the block, into an error of a setting.

    Args:
      path: The full dotted path of the setting.
      hint: What to do.

    Raises:
      ConfigError: A program needs more memory than a device has.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        _, status, message = str(error).partition("RESOURCE_EXHAUSTED")
        if not status:
            raise
        said = " ".join(message.split()).lstrip(": ")[:_SHOWN].rstrip(". ")
        raise ConfigError(path, f"a device is out of memory ({said}); {hint}") from error
