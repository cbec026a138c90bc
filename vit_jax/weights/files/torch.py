"""torch's `.pth`, `.pt` and `.bin`, which need the extra `torch`; nothing in them is executed."""

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

# Bytes that describe the objects in a file; the numbers are elsewhere. The checkpoint of a thousand
# tensors and their optimizer takes a quarter. What torch makes of them may be 200 times more.
MAX_OBJECTS = 1 << 20
# Operations that torch takes ten microseconds for, and how many of each a file may have; the same
# letters are in names.
SLOW = (b"R", b"b", b"\x81")
MAX_SLOW = 1 << 16
# Makes as many bytes as it is told to, and no file needs it.
BOMB = b"bytearray"

_GLOBAL = re.compile(r"GLOBAL (\S+) (?:was|whose)")
_ADVICE = (
    "nothing of it was run. Where you trust it, load it with torch and save its state dict alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


def import_torch(flag: str) -> Any:
    """Return the module `torch`.

    Raises:
      ConfigError: It is not installed; the error names `flag`.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(flag, "torch is not installed; pip install 'vit_jax[torch]'") from error
    return torch


def open_torch(path: pathlib.Path, stream: io.BufferedReader, weights: str = "") -> WeightFile:
    """Open a file of dense tensors by name, or one that has them beside what training needs.

    Args:
      path: The file.
      stream: Its content.
      weights: `ema` or `raw`, where the file has both; the average if empty.

    Raises:
      ConfigError: torch is not installed, or the file has no such weights.
      DataError: The file is corrupt or holds something else.
    """
    torch = import_torch("--input")
    with stream:
        zipped = stream.read(4) == b"PK\3\4"
        if zipped:
            _check_zip(path, stream)
    tensors, chosen = _load(torch, path, weights, zipped=zipped, mmap=zipped)
    odd = [
        f"{name} is {problem}"
        for name, tensor in tensors.items()
        if (problem := _describe_odd(torch, name, tensor))
    ]
    if odd:
        raise DataError(f"{path}: expected dense tensors by name; {', '.join(odd[:3])}")
    dtypes = {getattr(torch, dtype.name): dtype for dtype in DTYPES.values()}
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    headers = check_headers(path, stored, dtypes)
    loaded: dict[Any, Any] = {} if zipped else dict(tensors)

    def read(name: str) -> np.ndarray:
        if name not in loaded:  # without `mmap`, whose pages would count twice
            loaded.update(_load(torch, path, weights, zipped=zipped, mmap=False)[0])
        tensor = loaded.pop(name).detach().clone(memory_format=torch.contiguous_format)
        array = tensor.reshape(-1).view(torch.uint8).numpy()  # NumPy does not know bfloat16
        return array.view(headers[name].dtype).reshape(headers[name].shape)

    return WeightFile(path, headers, read, loaded.clear, chosen.notes, chosen.kind)


def write_torch(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    """Write a file of tensors by name; all of them are in memory at once.

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
      DataError: It is corrupt, or none of tensors.
    """
    try:
        archive, entries = open_zip(path, stream, zipfile.ZIP_STORED)  # as torch writes
        names = {pathlib.PurePosixPath(entry.filename).name: entry for entry in entries}
        if "constants.pkl" in names:
            raise DataError(f"{path}: a program of TorchScript, not weights; {_ADVICE}")
        if "data.pkl" not in names:
            raise DataError(f"{path}: not a file of torch.save; it has no data.pkl")
        if names["data.pkl"].file_size > MAX_OBJECTS:
            raise DataError(f"{path}: far more objects than weights need; {_ADVICE}")
        objects = archive.read(names["data.pkl"])
        if max(map(objects.count, SLOW)) > MAX_SLOW:
            raise DataError(f"{path}: far more objects than weights need; {_ADVICE}")
        if BOMB in objects:
            raise DataError(f"{path}: holds {BOMB.decode()}, not only weights; {_ADVICE}")
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def _load(
    torch: Any, path: pathlib.Path, weights: str, *, zipped: bool, mmap: bool
) -> tuple[Mapping[Any, Any], sets.Chosen]:
    """Return the tensors of a file by name; with `mmap`, they take no memory yet."""
    try:
        with (
            torch.serialization.safe_globals(stand_ins()),
            warnings.catch_warnings(action="ignore"),  # torch's about itself
            path.open("rb") as stream,
        ):
            content = torch.load(
                path if zipped else _Legacy(stream), "cpu", weights_only=True, mmap=mmap
            )
    except UserError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:
        if match := _GLOBAL.search(str(error)):
            raise DataError(f"{path}: holds {match[1]}, not only weights; {_ADVICE}") from error
        raise DataError(f"{path}: damaged, or more than tensors; {_ADVICE}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected tensors by name, got {type(content).__name__}")
    found = sets.find_sets(content, lambda value: isinstance(value, torch.Tensor))
    if not found:
        keys = ", ".join(map(str, [*content][:8]))
        raise DataError(f"{path}: no tensors by name in it; it has {keys or 'nothing'}")
    chosen = sets.choose([*found], weights, path)
    return found[chosen.key], chosen


def _describe_odd(torch: Any, name: Any, tensor: Any) -> str:
    """Return what is wrong with an entry, or nothing."""
    if not isinstance(name, str):
        return f"{type(tensor).__name__} with a {type(name).__name__} as its name"
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.device.type != "cpu":
        return f"without values (on the device {tensor.device.type})"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return "larger than what is stored for it"
    return ""


class _Legacy(io.RawIOBase):
    """A file as torch wrote it before 1.6, whose objects may take `MAX_OBJECTS` bytes."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._left = MAX_OBJECTS
        self._left_slow = MAX_SLOW

    def read(self, size: int = -1) -> bytes:
        return self._count(self._stream.read(min(size, self._left + 1) if size >= 0 else size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._count(self._stream.readline(self._left + 1))

    def readinto(self, buffer: Any) -> int:  # the numbers
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
        self._left_slow -= content in SLOW
        if min(self._left, self._left_slow) < 0:
            raise DataError(f"far more objects than weights need; {_ADVICE}")
        if BOMB in content:
            raise DataError(f"holds {BOMB.decode()}, not only weights; {_ADVICE}")
        return content
