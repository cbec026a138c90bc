"""Writing a weight file by its suffix, whole or not at all."""

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


# Suffixes of files that are not written, and those that are meant by them.
_NOT_WRITTEN = {".npy": ".npz", ".h5": ".npz", ".msgpack": ".npz", ".onnx": ".safetensors"} | {
    suffix: ".pth" for suffix in (".pt", ".bin", ".ckpt", ".th", ".tar", ".pkl")
}


def is_file_name(path: pathlib.Path) -> bool:
    """Return whether a path to write is a weight file, by its suffix; all else is a folder.

    Raises:
      ConfigError: The suffix is of a file that is not written, or nearly of one that is.
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
    """Write arrays to a new file; a reader sees all of them or no file.

    Args:
      path: The file: `.npz`, `.safetensors` or `.pth`.
      headers: By name, in the order of the file.
      read: Returns an array by its name; for `.pth` only, all are in memory at once.

    Raises:
      ConfigError: The suffix is another, or the extra for it is not installed.
      WorkdirError: The file exists already, or cannot be written.
    """
    if not is_file_name(path):
        raise ConfigError("--output", f"{path}: expected {', '.join(_WRITERS)}")
    if path.exists():
        raise WorkdirError(f"{path}: exists already; give another --output")

    def read_checked(name: str) -> np.ndarray:
        array = read(name)
        if (header := Header(array.shape, array.dtype)) != headers[name]:
            raise ValueError(f"{name}: made {header}, expected {headers[name]}")
        return array

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # a new file, wherever a link of that name leads
            _WRITERS[path.suffix.lower()](file, headers, read_checked)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
