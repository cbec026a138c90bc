"""Weight files: `.npz`, `.safetensors` and torch's `.pth`, read and written array by array.

Nothing in a file is executed, and no memory is taken before names, dtypes and sizes have been
checked from the headers alone.
"""

import collections
import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from vit_jax.errors import ConfigError, DataError, InputMissingError, UserError, WorkdirError

Read = Callable[[str], np.ndarray]
Shape = tuple[int, ...]

# The dtypes of weights, as safetensors calls them, and how NumPy reads headers, by version.
DTYPES = {"F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Swin's files hold numbers of offsets besides its weights; no other integers are read.
INDEX, INTEGERS = "relative_position_index", {"I64": np.dtype("i8")}
MAX_HEADER, MAX_NPY_HEADER = 100_000_000, 1 << 14  # bytes, of safetensors and of NumPy's arrays
MAX_RATIO, MIN_BOMB = 100, 64 << 20  # a zip entry that grows more, to more bytes, is refused
CHUNK = 1 << 24


class Header(NamedTuple):
    """What a file says about an array."""

    shape: Shape
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """The size of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """Arrays by name, read one at a time; a context manager.

    Attributes:
      path: For errors.
      headers: In the order of the file.
      read: Returns an array as it is stored, in fresh memory; a `DataError` where it is damaged.
      close: Lets go of the file.
    """

    path: pathlib.Path
    headers: dict[str, Header]
    read: Read
    close: Callable[[], None]

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_file(path: str | pathlib.Path) -> WeightFile:
    """Opens a file by its suffix.

    Raises:
      ConfigError: The suffix is unknown, or the extra for it is not installed.
      InputMissingError: It is not there, or may not be read.
      DataError: It is damaged or holds something else.
    """
    path = pathlib.Path(path)
    if path.suffix not in _OPENERS:
        raise ConfigError("--input", f"{path}: expected {', '.join(SUFFIXES)}")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputMissingError(f"{path}: {error.strerror or error}") from error
    with contextlib.ExitStack() as stack, _damaged(path):
        stack.callback(stream.close)
        file = _OPENERS[path.suffix](path, stream)
        stack.pop_all()
        return file


def _open_npz(path: pathlib.Path, stream: io.BufferedReader) -> WeightFile:
    archive = zipfile.ZipFile(stream)
    stored: dict[str, tuple[Shape, np.dtype]] = {}
    places: dict[str, tuple[bool, int, int]] = {}  # transposed or not, begin and end in the entry
    for entry in _entries(path, archive, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename or name in stored:
            raise DataError(f"{path}: {entry.filename}: expected arrays (.npy), each name once")
        with archive.open(entry) as member:
            start = io.BytesIO(member.read(MAX_NPY_HEADER))
        shape, fortran, dtype = NPY_HEADERS[npy.read_magic(start)](start)
        if dtype.hasobject:
            raise DataError(f"{path}: {name} holds Python objects, which are never loaded")
        stored[name], places[name] = (shape, dtype), (fortran, start.tell(), entry.file_size)
    known = {np.dtype("V2"): DTYPES["BF16"]}  # NumPy writes bfloat16 so, which it does not know
    known |= {dtype: dtype for dtype in (*DTYPES.values(), *INTEGERS.values())}
    headers = _headers(path, stored, known)
    for name, (_, begin, end) in places.items():
        if end - begin != headers[name].nbytes:
            raise ValueError(f"{name}: {end - begin:,} bytes, not {headers[name].nbytes:,}")

    def read(name: str) -> np.ndarray:
        (shape, dtype), (fortran, begin, _) = headers[name], places[name]
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        with _damaged(path), archive.open(f"{name}.npy") as member:
            member.read(begin)
            _read_into(member, array)  # at the end, the checksum is compared
        return array.T.copy(order="C") if fortran else array

    return WeightFile(path, headers, read, stream.close)


def _entries(path: pathlib.Path, archive: zipfile.ZipFile, *methods: int) -> list[zipfile.ZipInfo]:
    """Returns the entries of a zip file, none of which can grow out of hand."""
    entries = archive.infolist()
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are larger than the file")
    for entry in entries:
        where, packed, size = f"{path}: {entry.filename}", entry.compress_size, entry.file_size
        if entry.flag_bits & 1 or entry.compress_type not in methods:
            raise DataError(f"{where} is encrypted, or compressed in a way that is not read")
        if size > MIN_BOMB and size > MAX_RATIO * packed:
            raise DataError(f"{where} would grow from {packed:,} to {size:,} bytes; not opened")
    return entries


def _open_safetensors(path: pathlib.Path, stream: io.BufferedReader) -> WeightFile:
    size = path.stat().st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise DataError(f"{path}: not a safetensors file, or truncated: header of {length:,} bytes")
    entries = json.loads(stream.read(length).decode(), object_pairs_hook=_unique)
    entries.pop("__metadata__", None)
    stored = {name: (tuple(e["shape"]), str(e["dtype"])) for name, e in entries.items()}
    headers = _headers(path, stored, DTYPES | INTEGERS)
    place, places = 0, {}
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        span = [place, place + headers[name].nbytes]
        if entries[name]["data_offsets"] != span:
            raise ValueError(f"{name}: expected at {span}, not {entries[name]['data_offsets']}")
        places[name], place = 8 + length + place, span[1]
    if 8 + length + place != size:
        raise ValueError(f"{size:,} bytes, expected {8 + length + place:,}")

    def read(name: str) -> np.ndarray:
        array = np.empty(*headers[name])
        with _damaged(path):
            stream.seek(places[name])
            _read_into(stream, array)
        return array

    return WeightFile(path, headers, read, stream.close)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _open_torch(path: pathlib.Path, stream: io.BufferedReader) -> WeightFile:
    torch = import_torch("--input")
    with stream:
        if zipped := stream.read(4) == b"PK\3\4":
            _entries(path, zipfile.ZipFile(stream), zipfile.ZIP_STORED)  # torch compresses nothing
    tensors = _load_torch(torch, path, mmap=zipped)
    odd = [
        f"{name} is {type(tensor).__name__}"
        for name, tensor in tensors.items()
        if not (isinstance(name, str) and isinstance(tensor, torch.Tensor))
        or (tensor.layout, tensor.device.type) != (torch.strided, "cpu")
        or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes()
    ]
    if odd:
        raise DataError(f"{path}: expected dense tensors by name; {', '.join(odd[:3])}")
    dtypes = (*DTYPES.values(), *INTEGERS.values())
    known = {getattr(torch, dtype.name): dtype for dtype in dtypes}
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    headers = _headers(path, stored, known)
    loaded: dict[str, Any] = {} if zipped else tensors

    def read(name: str) -> np.ndarray:
        if name not in loaded:
            loaded.update(_load_torch(torch, path, mmap=False))  # whose pages would count twice
        tensor = loaded.pop(name).detach().clone(memory_format=torch.contiguous_format)
        array = tensor.reshape(-1).view(torch.uint8).numpy()  # NumPy does not know bfloat16
        return array.view(headers[name].dtype).reshape(headers[name].shape)

    return WeightFile(path, headers, read, loaded.clear)


def _load_torch(torch: Any, path: pathlib.Path, *, mmap: bool) -> dict[Any, Any]:
    """Returns what a file holds by name; with `mmap`, it takes no memory yet."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise DataError(f"{path}: damaged, or more than tensors; nothing of it was run") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: expected tensors by name, got {type(loaded).__name__}")
    inner = [loaded[key] for key in ("model", "state_dict") if isinstance(loaded.get(key), dict)]
    if len(inner) > 1:
        raise DataError(f"{path}: expected tensors by name in model or state_dict, not in both")
    return inner[0] if inner else loaded


def import_torch(flag: str) -> Any:
    """Imports torch.

    Raises:
      ConfigError: It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(flag, "torch is not installed; pip install 'vit_jax[torch]'") from error
    return torch


_OPENERS: dict[str, Callable[[pathlib.Path, io.BufferedReader], WeightFile]] = {
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    **dict.fromkeys((".pth", ".pt", ".bin"), _open_torch),
}
SUFFIXES = tuple(_OPENERS)


def _headers(
    path: pathlib.Path,
    stored: Mapping[str, tuple[tuple[Any, ...], Any]],
    known: Mapping[Any, np.dtype],
) -> dict[str, Header]:
    """Returns the headers of arrays, whose dtypes a kind of file calls by names of its own."""
    wrong = [
        f"{name} is {dtype}"
        for name, (_, dtype) in stored.items()
        if dtype not in known or (known[dtype].kind == "i") != name.endswith(INDEX)
    ]
    if wrong:
        raise DataError(f"{path}: expected float32, float16 or bfloat16; {', '.join(wrong[:3])}")
    headers = {name: Header(shape, known[dtype]) for name, (shape, dtype) in stored.items()}
    for name, (shape, _) in headers.items():
        sized = len(shape) <= 32 and all(type(side) is int and side >= 0 for side in shape)
        if not sized or math.prod(side or 1 for side in shape) >= 1 << 60:
            raise ValueError(f"{name}: impossible shape {shape}")
    return headers


def write_file(path: pathlib.Path, headers: Mapping[str, Header], read: Read) -> None:
    """Writes arrays, by the file's suffix; a reader sees all of them or no file.

    Args:
      path: `.npz`, `.safetensors` or `.pth`.
      headers: Of all arrays, in their order.
      read: Makes one; for `.pth` only, all are in memory at once.

    Raises:
      ConfigError: The suffix is another, or the extra for it is not installed.
      WorkdirError: It is there already, or cannot be written.
    """
    if path.suffix not in _WRITERS:
        raise ConfigError("--output", f"{path}: expected {', '.join(_WRITERS)}")
    if path.exists():
        raise WorkdirError(f"{path}: exists already; give another --output")

    def checked(name: str) -> np.ndarray:
        array = read(name)
        if (header := Header(array.shape, array.dtype)) != headers[name]:
            raise ValueError(f"{name}: made {header}, expected {headers[name]}")
        return array

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            _WRITERS[path.suffix](file, headers, checked)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write_npz(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in headers:
            array = read(name)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array)


def _write_safetensors(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    names = {dtype: name for name, dtype in (DTYPES | INTEGERS).items()}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, header in headers.items():
        span = [place, place + header.nbytes]
        entries[name] = {"dtype": names[header.dtype], "shape": header.shape, "data_offsets": span}
        place = span[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in headers:
        file.write(np.ascontiguousarray(read(name)).reshape(-1).view(np.uint8).data)


def _write_torch(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    torch = import_torch("--output")

    def tensor(name: str) -> Any:
        array = np.require(read(name), requirements=("C", "W"))
        content = torch.from_numpy(array.reshape(-1).view(np.uint8))
        return content.view(getattr(torch, array.dtype.name)).reshape(array.shape)

    torch.save(collections.OrderedDict((name, tensor(name)) for name in headers), file)


_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Header], Read], None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".pth": _write_torch,
}


def _read_into(file: Any, array: np.ndarray) -> None:
    content = array.reshape(-1).view(np.uint8)
    for begin in range(0, content.size, CHUNK):
        part = content[begin : begin + CHUNK]
        if file.readinto(part) != part.size:
            raise ValueError("truncated")


@contextlib.contextmanager
def _damaged(path: pathlib.Path) -> Iterator[None]:
    """Turns what is raised about a damaged file into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zip files, JSON and NumPy's headers break in many ways
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise DataError(f"{path}: damaged: {' '.join(reason.split())[:200]}") from error
