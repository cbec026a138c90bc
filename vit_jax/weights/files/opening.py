"""Opening a weight file: what it is shows in its first bytes, or else in its suffix."""

import contextlib
import io
import pathlib
from collections.abc import Callable

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.files.base import WeightFile, naming_damage
from vit_jax.weights.files.npz import open_npz
from vit_jax.weights.files.safetensors import open_safetensors
from vit_jax.weights.files.torch import open_torch

_OPENERS: dict[str, Callable[[pathlib.Path, io.BufferedReader], WeightFile]] = {
    ".npz": open_npz,
    ".safetensors": open_safetensors,
}
# Suffixes of torch's files; `.tar` is what the example of ImageNet calls its checkpoints.
_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar")
SUFFIXES = (*_OPENERS, *_TORCH)

# What other files begin with, and what to say of them.
_SIGNS = {
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file",
    b"<": "a web page or XML; download the file itself",
    b"\x89HDF": "HDF5, as TensorFlow and Keras save",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"GGUF": "GGUF, quantized weights",
    b"\x93NUMPY": "one array (.npy); save arrays by name with numpy.savez",
}
_HEAD = 512


def open_file(path: str | pathlib.Path, weights: str = "") -> WeightFile:
    """Open a weight file; names, dtypes and sizes are checked before memory is taken.

    Args:
      path: The file.
      weights: `ema` or `raw`, where a file has both; the average if empty.

    Raises:
      ConfigError: The extra for its format is not installed, or it has no such weights.
      InputMissingError: There is no such file, or it may not be read.
      DataError: It is corrupt or holds something else.
    """
    path = pathlib.Path(path)
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise InputMissingError(f"{path}: {kind}; expected a file of weights")
        stream = path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputMissingError(f"{path}: {reason or error}") from error
    with contextlib.ExitStack() as stack, naming_damage(path):
        stack.callback(stream.close)
        opener = _find_opener(path, stream)
        stream.seek(0)
        file = opener(path, stream) if opener else open_torch(path, stream, weights)
        stack.pop_all()
        return file


def _find_opener(
    path: pathlib.Path, stream: io.BufferedReader
) -> Callable[[pathlib.Path, io.BufferedReader], WeightFile] | None:
    """Return what opens a file; None for torch.

    Raises:
      DataError: It is of no format that is read.
    """
    head = stream.read(_HEAD)
    for sign, kind in _SIGNS.items():
        if head.startswith(sign):
            raise DataError(f"{path}: not weights that are read: {kind}")
    if head[257:262] == b"ustar":
        raise DataError(f"{path}: not weights that are read: a tar archive; unpack it first")
    first = _first_entry(stream) if head.startswith(b"PK\3\4") else ""
    if first.endswith(".npy"):
        return open_npz
    if first.endswith("data.pkl") or head.startswith((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")):
        return None
    if head[8:9] == b"{":
        return open_safetensors
    if path.suffix.lower() not in SUFFIXES:
        expected = f"expected {', '.join(SUFFIXES)}"
        raise DataError(f"{path}: {expected}, and it does not begin as one of them")
    return _OPENERS.get(path.suffix.lower())


def _first_entry(stream: io.BufferedReader) -> str:
    """Return the name of the first entry of a zip archive."""
    stream.seek(26)
    length = int.from_bytes(stream.read(2), "little")
    stream.seek(30)
    return stream.read(length).decode(errors="replace")
