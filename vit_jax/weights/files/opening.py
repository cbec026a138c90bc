"""Open a weight file. Its first bytes, or else its suffix, tell the format."""

import contextlib
import io
import pathlib
from collections.abc import Callable

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.files.base import WeightFile, reporting_corruption
from vit_jax.weights.files.npz import open_npz
from vit_jax.weights.files.safetensors import open_safetensors
from vit_jax.weights.files.torch import open_torch

_OPENERS: dict[str, Callable[[pathlib.Path, io.BufferedReader], WeightFile]] = {
    ".npz": open_npz,
    ".safetensors": open_safetensors,
}
# Suffixes of torch's files. torch's ImageNet example writes `.pth.tar`.
_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar")
SUFFIXES = (*_OPENERS, *_TORCH)

# The first bytes of unsupported files, and what to tell the user.
_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file with `git lfs pull`",
    b"<": "a web page or XML; download the file itself",
    b"\x89HDF": "an HDF5 file of TensorFlow or Keras; convert it to safetensors first",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"GGUF": "GGUF with quantized weights; use the original weights",
    b"\x93NUMPY": "a single array (.npy); save arrays by name with numpy.savez",
}
_HEAD_BYTES = 512


def open_file(path: str | pathlib.Path, weights: str = "") -> WeightFile:
    """Open a weight file, and check names, dtypes and sizes before any array is allocated.

    Args:
      path: The path of the file.
      weights: `ema` or `raw`, if the file has both. An empty string prefers the EMA.

    Raises:
      ConfigError: The extra for the format is not installed, or the file does not have the
        requested `weights`.
      InputMissingError: There is no such file, or it cannot be opened.
      DataError: The file is corrupt or not a weight file.
    """
    path = pathlib.Path(path)
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise InputMissingError(f"{path}: {kind}; expected a weight file")
        stream = path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputMissingError(f"{path}: {reason or error}") from error
    with contextlib.ExitStack() as stack, reporting_corruption(path):
        stack.callback(stream.close)
        opener = _find_opener(path, stream)
        stream.seek(0)
        file = opener(path, stream) if opener else open_torch(path, stream, weights)
        stack.pop_all()
        return file


def _find_opener(
    path: pathlib.Path, stream: io.BufferedReader
) -> Callable[[pathlib.Path, io.BufferedReader], WeightFile] | None:
    """Return the function that opens a file; None for torch's formats.

    Raises:
      DataError: The format is not supported.
    """
    head = stream.read(_HEAD_BYTES)
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            raise DataError(f"{path}: not a weight file: {kind}")
    if head[257:262] == b"ustar":
        raise DataError(f"{path}: not a weight file: a tar archive; unpack it first")
    first = _first_entry(stream) if head.startswith(b"PK\3\4") else ""
    if first.endswith(".npy"):
        return open_npz
    if first.endswith("data.pkl") or head.startswith((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")):
        return None
    if head[8:9] == b"{":
        return open_safetensors
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown format; expected {', '.join(SUFFIXES)}")
    return _OPENERS.get(path.suffix.lower())


def _first_entry(stream: io.BufferedReader) -> str:
    """Return the name of the first entry of a zip archive."""
    stream.seek(26)
    length = int.from_bytes(stream.read(2), "little")
    stream.seek(30)
    return stream.read(length).decode(errors="replace")
