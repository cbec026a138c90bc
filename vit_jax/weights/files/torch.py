"""Read and write torch's `.pth`, `.pt` and `.bin` (extra `torch`). No code in them is executed."""

import collections
import io
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from vit_jax.errors import ConfigError, DataError, UserError
from vit_jax.weights.files import sets
from vit_jax.weights.files.base import DTYPES, Header, Read, WeightFile, check_headers
from vit_jax.weights.files.torch_objects import stand_ins
from vit_jax.weights.files.zips import open_zip

# Limit on the bytes that describe the objects of a file, without the values of tensors. The
# checkpoint of a thousand tensors with their optimizer takes a quarter. Loaded, the objects may
# take 200 times as much memory.
MAX_OBJECT_BYTES = 1 << 20
# Opcodes that take torch about ten microseconds, and the limit on each. The same bytes also occur
# in names, so the counts are upper bounds.
SLOW_OPCODES = (b"R", b"b", b"\x81")
MAX_SLOW_OPCODES = 1 << 16
# This class could allocate any number of bytes. No weight file needs it.
FORBIDDEN_NAME = b"bytearray"

_GLOBAL = re.compile(r"GLOBAL (\S+) (?:was|whose)")
_ADVICE = (
    "no code in it was run. If you trust it, load it with torch and save only its state dict: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


def import_torch(flag: str) -> Any:
    """Import torch, and return the module.

    Args:
      flag: The flag that needs torch, for the error.

    Raises:
      ConfigError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(flag, "torch is not installed; pip install 'vit_jax[torch]'") from error
    return torch


def open_torch(path: pathlib.Path, stream: io.BufferedReader, weights: str = "") -> WeightFile:
    """Open a state dict, or a training checkpoint that has one.

    Args:
      path: The path of the file.
      stream: The content of the file.
      weights: `ema` or `raw`, if the file has both. An empty string prefers the EMA.

    Raises:
      ConfigError: torch is not installed, or the file does not have the requested `weights`.
      DataError: The file is corrupt or has no dense tensors by name.
    """
    torch = import_torch("--input")
    with stream:
        zipped = stream.read(4) == b"PK\3\4"
        if zipped:
            _check_zip(path, stream)
    tensors, chosen = _load(torch, path, weights, zipped=zipped, mmap=zipped)
    problems = [
        f"{name} is {problem}"
        for name, tensor in tensors.items()
        if (problem := _describe_problem(torch, name, tensor))
    ]
    if problems:
        raise DataError(f"{path}: expected dense tensors by name; {', '.join(problems[:3])}")
    dtypes = {getattr(torch, dtype.name): dtype for dtype in DTYPES.values()}
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    headers = check_headers(path, stored, dtypes)
    loaded: dict[Any, Any] = {} if zipped else dict(tensors)

    def read(name: str) -> np.ndarray:
        if name not in loaded:  # without `mmap`, whose pages would be in memory twice
            loaded.update(_load(torch, path, weights, zipped=zipped, mmap=False)[0])
        tensor = loaded.pop(name).detach().clone(memory_format=torch.contiguous_format)
        array = tensor.reshape(-1).view(torch.uint8).numpy()  # NumPy has no bfloat16
        return array.view(headers[name].dtype).reshape(headers[name].shape)

    return WeightFile(path, headers, read, loaded.clear, chosen.notes, chosen.kind)


def write_torch(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    """Write a state dict. All tensors are in memory at once.

    Args:
      file: The file to write to.
      headers: The header of each array, by name.
      read: Returns an array by name.

    Raises:
      ConfigError: torch is not installed.
    """
    torch = import_torch("--output")

    def tensor(name: str) -> Any:
        array = np.require(read(name), requirements=("C", "W"))
        content = torch.from_numpy(array.reshape(-1).view(np.uint8))
        return content.view(getattr(torch, array.dtype.name)).reshape(array.shape)

    torch.save(collections.OrderedDict((name, tensor(name)) for name in headers), file)


def _check_zip(path: pathlib.Path, stream: io.BufferedReader) -> None:
    """Check an archive before torch opens it.

    Raises:
      DataError: The archive is corrupt, or not one of `torch.save`.
    """
    try:
        archive, entries = open_zip(path, stream, zipfile.ZIP_STORED)  # as torch writes
        names = {pathlib.PurePosixPath(entry.filename).name: entry for entry in entries}
        if "constants.pkl" in names:
            raise DataError(f"{path}: a TorchScript program, not weights; {_ADVICE}")
        if "data.pkl" not in names:
            raise DataError(f"{path}: not a file of torch.save; it has no data.pkl")
        if names["data.pkl"].file_size > MAX_OBJECT_BYTES:
            raise DataError(f"{path}: far more objects than weights need; {_ADVICE}")
        objects = archive.read(names["data.pkl"])
        if max(map(objects.count, SLOW_OPCODES)) > MAX_SLOW_OPCODES:
            raise DataError(f"{path}: far more objects than weights need; {_ADVICE}")
        if FORBIDDEN_NAME in objects:
            name = FORBIDDEN_NAME.decode()
            raise DataError(f"{path}: contains {name}, not only weights; {_ADVICE}")
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: corrupt: {error}") from error


def _load(
    torch: Any, path: pathlib.Path, weights: str, *, zipped: bool, mmap: bool
) -> tuple[Mapping[Any, Any], sets.WeightSet]:
    """Return the chosen tensors of a file by name. With `mmap` they are not in memory yet."""
    try:
        with (
            torch.serialization.safe_globals(stand_ins()),
            warnings.catch_warnings(action="ignore"),  # torch's deprecations of its own formats
            path.open("rb") as stream,
        ):
            content = torch.load(
                path if zipped else _LegacyFile(stream), "cpu", weights_only=True, mmap=mmap
            )
    except UserError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:
        if match := _GLOBAL.search(str(error)):
            raise DataError(f"{path}: contains {match[1]}, not only weights; {_ADVICE}") from error
        raise DataError(f"{path}: corrupt, or not only tensors; {_ADVICE}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected tensors by name, got {type(content).__name__}")
    candidates = sets.find_sets(content, lambda value: isinstance(value, torch.Tensor))
    if not candidates:
        keys = ", ".join(map(str, [*content][:8]))
        raise DataError(f"{path}: has no tensors by name, only {keys or 'an empty mapping'}")
    chosen = sets.choose_set([*candidates], weights, path)
    return candidates[chosen.key], chosen


def _describe_problem(torch: Any, name: Any, tensor: Any) -> str:
    """Return what is wrong with an entry, or an empty string."""
    if not isinstance(name, str):
        return f"named by a {type(name).__name__}, not by a string"
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.device.type != "cpu":
        return f"without values (on the device {tensor.device.type})"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return "larger than its stored values"
    return ""


class _LegacyFile(io.RawIOBase):
    """A file in the format of torch before 1.6, with the same limits on its objects."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._left = MAX_OBJECT_BYTES
        self._left_slow = MAX_SLOW_OPCODES

    def read(self, size: int = -1) -> bytes:
        return self._count(self._stream.read(min(size, self._left + 1) if size >= 0 else size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._count(self._stream.readline(self._left + 1))

    def readinto(self, buffer: Any) -> int:  # the values of tensors, which are not limited
        return self._stream.readinto(buffer)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _count(self, content: bytes) -> bytes:
        self._left -= len(content)
        self._left_slow -= content in SLOW_OPCODES
        if min(self._left, self._left_slow) < 0:
            raise DataError(f"far more objects than weights need; {_ADVICE}")
        if FORBIDDEN_NAME in content:
            raise DataError(f"contains {FORBIDDEN_NAME.decode()}, not only weights; {_ADVICE}")
        return content
