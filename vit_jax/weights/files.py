"""Weight files: `.npz`, `.safetensors` and torch's `.pth`, read and written array by array.

Nothing in a file is executed, and no memory is taken before names, dtypes and sizes have been
checked from the headers alone.
"""

import collections
import contextlib
import json
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from vit_jax.errors import ConfigError, DataError, InputMissingError, WorkdirError

Read = Callable[[str], np.ndarray]

# The dtypes of weights, as safetensors calls them.
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
MAX_HEADER = 100_000_000  # bytes, of safetensors
MAX_RATIO, MIN_BOMB = 100, 64 << 20  # a zip entry that grows more, to more bytes, is refused
CHUNK = 1 << 24


class Header(NamedTuple):
    """What a file says about an array."""

    shape: tuple[int, ...]
    dtype: np.dtype


class WeightFile:
    """Arrays by name, read one at a time; a context manager.

    Args:
      path: For errors.
      headers: Of all arrays.
      read: Reads one.
      close: Lets go of the file.
    """

    def __init__(
        self,
        path: pathlib.Path,
        headers: Mapping[str, Header],
        read: Read,
        close: Callable[[], None],
    ) -> None:
        dtypes = {name: header.dtype for name, header in headers.items()}
        wrong = [f"{name} is {d}" for name, d in dtypes.items() if d not in DTYPES.values()]
        if wrong:
            shown = ", ".join(wrong[:3]) + f" and {len(wrong) - 3} more" * (len(wrong) > 3)
            raise DataError(f"{path}: expected float32, float16 or bfloat16; {shown}")
        self.path, self.headers, self._read, self._close = path, dict(headers), read, close

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def read(self, name: str) -> np.ndarray:
        """Returns an array as it is stored, in fresh memory.

        Raises:
          DataError: Its bytes are damaged.
        """
        return self._read(name)


def open_files(paths: Sequence[pathlib.Path]) -> WeightFile:
    """Opens one file, or several that hold the parts of a whole.

    Raises:
      InputMissingError: One is not there.
      DataError: One is damaged or holds something else, or two hold the same name.
    """
    with contextlib.ExitStack() as stack:
        owners: dict[str, WeightFile] = {}
        for path in paths:
            file = stack.enter_context(open_file(path))
            if twice := owners.keys() & file.headers:
                raise DataError(f"{path}: {min(twice)} is in {owners[min(twice)].path} too")
            owners |= dict.fromkeys(file.headers, file)
        headers = {name: file.headers[name] for name, file in owners.items()}
        close = stack.pop_all().close
    return WeightFile(paths[0], headers, lambda name: owners[name].read(name), close)


def open_file(path: pathlib.Path) -> WeightFile:
    """Opens a file by its suffix.

    Raises:
      ConfigError: The suffix is unknown, or the extra for it is not installed.
      InputMissingError: It is not there.
      DataError: It is damaged or holds something else.
    """
    if path.suffix not in _OPENERS:
        raise ConfigError("--input", f"{path}: expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputMissingError(f"{path}: no such file")
    return _OPENERS[path.suffix](path)


def _open_npz(path: pathlib.Path) -> WeightFile:
    with _damaged(path), contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        headers = {}
        for entry in archive.infolist():
            _check_entry(path, entry)
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in headers:
                raise DataError(f"{path}: {entry.filename}: expected arrays (.npy), each name once")
            with archive.open(entry) as member:
                shape, _, dtype = _npy_header(path, name, member)
                size = math.prod(shape) * dtype.itemsize
                if entry.file_size != member.tell() + size:
                    raise DataError(
                        f"{path}: {name}: {entry.file_size} bytes, but its header says "
                        f"{member.tell() + size}"
                    )
            headers[name] = Header(shape, dtype)
        stack.pop_all()

    def read(name: str) -> np.ndarray:
        with _damaged(path), archive.open(f"{name}.npy") as member:
            shape, fortran, dtype = _npy_header(path, name, member)
            array = np.empty(shape[::-1] if fortran else shape, dtype)
            _read_into(path, member, array)
            if member.read(1):  # at the end, the checksum is compared
                raise DataError(f"{path}: {name}: more bytes than its header says")
            return np.ascontiguousarray(array.T) if fortran else array

    return WeightFile(path, headers, read, archive.close)


def _check_entry(path: pathlib.Path, entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & 1:
        raise DataError(f"{path}: {entry.filename} is encrypted")
    if entry.file_size > MIN_BOMB and entry.file_size > MAX_RATIO * entry.compress_size:
        raise DataError(
            f"{path}: {entry.filename} would grow from {entry.compress_size:,} to "
            f"{entry.file_size:,} bytes; such a file is not opened"
        )


def _npy_header(
    path: pathlib.Path, name: str, member: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, whether the first dimension varies fastest, and the dtype."""
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise DataError(f"{path}: {name}: unknown version {version} of the array format")
    shape, fortran, dtype = readers[version](member)
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects, which are never loaded")
    if any(side < 0 for side in shape):
        raise DataError(f"{path}: {name}: impossible shape {shape}")
    if dtype == np.dtype("V2"):  # what NumPy calls bfloat16, which it does not know
        dtype = DTYPES["BF16"]
    return shape, fortran, dtype


def _open_safetensors(path: pathlib.Path) -> WeightFile:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise DataError(f"{path}: not a safetensors file, or truncated: header of {length:,}")
        text = file.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
        if not isinstance(entries, dict):
            raise ValueError("not an object")
        entries.pop("__metadata__", None)
        spans = {name: _span(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: damaged header ({error})") from error
    place = 0
    for name, (begin, end, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if begin != place:
            raise DataError(f"{path}: {name}: its bytes begin at {begin:,}, expected {place:,}")
        place = end
    if 8 + length + place != size:
        raise DataError(f"{path}: {size:,} bytes, expected {8 + length + place:,}; truncated?")
    source = open(path, "rb")  # noqa: SIM115 - closed with the WeightFile

    def read(name: str) -> np.ndarray:
        begin, _, header = spans[name]
        array = np.empty(header.shape, header.dtype)
        source.seek(8 + length + begin)
        _read_into(path, source, array)
        return array

    try:
        headers = {name: header for name, (_, _, header) in spans.items()}
        return WeightFile(path, headers, read, source.close)
    except DataError:
        source.close()
        raise


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name is there twice")
    return names


def _span(entry: Any) -> tuple[int, int, Header]:
    """Returns where an array begins and ends, and its header."""
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    for number in (begin, end, *shape):
        if type(number) is not int or number < 0:
            raise ValueError(f"expected a size, got {number!r:.40}")
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"expected float32, float16 or bfloat16, got {entry['dtype']!r:.20}")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - begin} bytes for shape {shape}")
    return begin, end, Header(tuple(shape), dtype)


def _open_torch(path: pathlib.Path) -> WeightFile:
    torch = import_torch("--input")
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with _damaged(path), zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(path, entry)
    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    headers = {}
    for name, tensor in _load_torch(path, mmap=zipped).items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise DataError(f"{path}: {name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in dtypes:
            raise DataError(
                f"{path}: {name}: expected float32, float16 or bfloat16, got {tensor.dtype}"
            )
        headers[str(name)] = Header(tuple(tensor.shape), DTYPES[dtypes[tensor.dtype]])
    loaded: dict[str, Any] = {}

    def read(name: str) -> np.ndarray:
        if name not in loaded:
            loaded.update(_load_torch(path, mmap=False))
        tensor = loaded.pop(name).detach().contiguous()  # let go as soon as it is used
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(DTYPES["BF16"])
        return tensor.numpy()

    return WeightFile(path, headers, read, loaded.clear)


def _load_torch(path: pathlib.Path, *, mmap: bool) -> dict[str, Any]:
    """Returns what a file holds by name; with `mmap`, its tensors take no memory yet."""
    try:
        found = import_torch("--input").load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        problem = "it is damaged, or holds more than tensors; nothing of it was run"
        raise DataError(f"{path}: cannot be loaded: {problem}") from error
    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise DataError(f"{path}: expected tensors by name, got {type(found).__name__}")
    return dict(found)


def import_torch(flag: str) -> Any:
    """Imports torch.

    Raises:
      ConfigError: It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        problem = "torch is not installed; pip install 'vit_jax[torch]'"
        raise ConfigError(flag, problem) from error
    return torch


_OPENERS: dict[str, Callable[[pathlib.Path], WeightFile]] = {
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".pth": _open_torch,
    ".pt": _open_torch,
    ".bin": _open_torch,
}
SUFFIXES = tuple(_OPENERS)


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
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            _WRITERS[path.suffix](file, headers, read)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_npz(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in headers:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, read(name))


def _write_safetensors(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (shape, dtype) in headers.items():
        end = place + math.prod(shape) * dtype.itemsize
        offsets = [place, end]
        entries[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": offsets}
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in headers:
        file.write(_bytes(np.ascontiguousarray(read(name))))


def _write_torch(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    torch = import_torch("--output")
    torch.save(
        collections.OrderedDict((n, torch.from_numpy(np.array(read(n)))) for n in headers), file
    )


_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Header], Read], None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".pth": _write_torch,
}


def _read_into(path: pathlib.Path, file: IO[bytes], array: np.ndarray) -> None:
    view = _bytes(array)
    for begin in range(0, len(view), CHUNK):
        part = view[begin : begin + CHUNK]
        if file.readinto(part) != len(part):  # type: ignore[attr-defined]
            raise DataError(f"{path}: truncated")


def _bytes(array: np.ndarray) -> memoryview:
    """Returns the memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _damaged(path: pathlib.Path) -> Iterator[None]:
    """Turns what the zip format and NumPy raise into one line."""
    try:
        yield
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: damaged: {first[:200]}") from error
    except (zlib.error, RecursionError, MemoryError, SyntaxError, KeyError) as error:
        raise DataError(f"{path}: damaged: {type(error).__name__}") from error
