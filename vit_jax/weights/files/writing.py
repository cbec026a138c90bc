"""Write a weight file in the format of its suffix, atomically."""

import contextlib
import difflib
import os
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import IO

import numpy as np

from vit_jax.errors import ConfigError, WorkdirError
from vit_jax.weights.files.base import Header, Read
from vit_jax.weights.files.npz import write_npz
from vit_jax.weights.files.safetensors import write_safetensors
from vit_jax.weights.files.torch import write_torch

_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Header], Read], None]] = {
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".pth": write_torch,
}


# Suffixes that cannot be written, and the supported ones to suggest instead.
_NOT_WRITTEN = {".npy": ".npz", ".h5": ".npz", ".msgpack": ".npz", ".onnx": ".safetensors"} | {
    suffix: ".pth" for suffix in (".pt", ".bin", ".ckpt", ".th", ".tar", ".pkl")
}


def is_file_name(path: pathlib.Path) -> bool:
    """Return whether an output path is a weight file, by its suffix. Other paths are folders.

    Raises:
      ConfigError: The suffix is that of another weight format, or nearly a supported one.
    """
    suffix = path.suffix.lower()
    if suffix in _WRITERS:
        return True
    near = [_NOT_WRITTEN[suffix]] if suffix in _NOT_WRITTEN else []
    near += difflib.get_close_matches(suffix, _WRITERS, n=1, cutoff=0.7)
    if near:
        expected = f"expected {', '.join(_WRITERS)} or a folder; did you mean '{near[0]}'?"
        raise ConfigError("--output", f"{path}: {expected}")
    return False


def write_file(path: pathlib.Path, headers: Mapping[str, Header], read: Read) -> None:
    """Write arrays to a new file, atomically: the file appears when it is complete.

    Args:
      path: The path of the file: `.npz`, `.safetensors` or `.pth`.
      headers: The header of each array by name, in the order of the file.
      read: Returns an array by name. All arrays are in memory at once for `.pth` only.

    Raises:
      ConfigError: The suffix is not supported, or the extra for it is not installed.
      WorkdirError: The file exists already, or cannot be written.
    """
    if not is_file_name(path):
        raise ConfigError("--output", f"{path}: expected {', '.join(_WRITERS)}")
    if path.exists():
        raise WorkdirError(f"{path}: already exists; give another --output")

    def read_checked(name: str) -> np.ndarray:
        array = read(name)
        if (header := Header(array.shape, array.dtype)) != headers[name]:
            raise ValueError(f"{name}: made {header}, expected {headers[name]}")
        return array

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # fails on a link of that name instead of following it
            _WRITERS[path.suffix.lower()](file, headers, read_checked)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
