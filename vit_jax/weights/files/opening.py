"""Opening a weight file by its suffix."""

import contextlib
import io
import pathlib
from collections.abc import Callable

from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.weights.files.base import WeightFile, naming_damage
from vit_jax.weights.files.npz import open_npz
from vit_jax.weights.files.safetensors import open_safetensors
from vit_jax.weights.files.torch import open_torch

_OPENERS: dict[str, Callable[[pathlib.Path, io.BufferedReader], WeightFile]] = {
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pth": open_torch,
    ".pt": open_torch,
    ".bin": open_torch,
}
SUFFIXES = tuple(_OPENERS)


def open_file(path: str | pathlib.Path) -> WeightFile:
    """Open a weight file; names, dtypes and sizes are checked before memory is taken.

    Raises:
      ConfigError: The suffix is unknown, or the extra for it is not installed.
      InputMissingError: There is no such file, or it may not be read.
      DataError: It is corrupt or holds something else.
    """
    path = pathlib.Path(path)
    if path.suffix not in _OPENERS:
        raise ConfigError("--input", f"{path}: expected {', '.join(SUFFIXES)}")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputMissingError(f"{path}: {error.strerror or error}") from error
    with contextlib.ExitStack() as stack, naming_damage(path):
        stack.callback(stream.close)
        file = _OPENERS[path.suffix](path, stream)
        stack.pop_all()
        return file
