"""The interface of a weight file: arrays by name, described by headers before any is read."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vit_jax.errors import DataError, UserError

Read = Callable[[str], np.ndarray]
Shape = tuple[int, ...]

# The dtypes that are read, by their names in safetensors. Parameters are of the first ones; the
# others are of tables and counters beside them.
FLOATS = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
OTHERS = {"BOOL": np.dtype(bool)} | {
    f"{kind}{8 * size}": np.dtype(f"{kind.lower()}{size}")
    for kind in ("I", "U")
    for size in (1, 2, 4, 8)
}
DTYPES = FLOATS | OTHERS
CHUNK = 1 << 24  # bytes to read at a time


class Header(NamedTuple):
    """What a file says about an array."""

    shape: Shape
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """The size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """Arrays by name, read one at a time; a context manager.

    Attributes:
      path: The file, for errors.
      headers: By name, in the order of the file.
      read: Returns an array as it is stored, in new memory; raises `DataError` where it is corrupt.
      close: Closes the file.
      notes: What the user should know about how it was read.
      kind: Which weights they are, where the file says so: `ema`, a moving average, or `raw`.
    """

    path: pathlib.Path
    headers: dict[str, Header]
    read: Read
    close: Callable[[], None]
    notes: tuple[str, ...] = ()
    kind: str = ""

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_headers(
    path: pathlib.Path,
    stored: Mapping[str, tuple[tuple[Any, ...], Any]],
    dtypes: Mapping[Any, np.dtype],
) -> dict[str, Header]:
    """Return the headers of the arrays in a file.

    Args:
      path: The file, for errors.
      stored: Shape and dtype of each array, as the file has them.
      dtypes: The dtypes that are read, by their names in this format.

    Raises:
      DataError: A dtype is not read.
      ValueError: A shape is impossible.
    """
    wrong = [f"{name} is {d}" for name, (_, d) in stored.items() if d not in dtypes]
    if wrong:
        expected = "float64, float32, float16, bfloat16 or whole numbers"
        raise DataError(f"{path}: expected arrays of {expected}; {', '.join(wrong[:3])}")
    headers = {name: Header(shape, dtypes[dtype]) for name, (shape, dtype) in stored.items()}
    for name, (shape, _) in headers.items():
        is_shape = len(shape) <= 32 and all(type(side) is int and side >= 0 for side in shape)
        if not is_shape or math.prod(side or 1 for side in shape) >= 1 << 60:
            raise ValueError(f"{name}: impossible shape {shape}")
    return headers


def read_into(file: Any, array: np.ndarray) -> None:
    """Fill a contiguous array from a stream.

    Raises:
      ValueError: The stream ends before.
    """
    content = array.reshape(-1).view(np.uint8)
    for begin in range(0, content.size, CHUNK):
        chunk = content[begin : begin + CHUNK]
        if file.readinto(chunk) != chunk.size:
            raise ValueError("truncated")


@contextlib.contextmanager
def naming_damage(path: pathlib.Path) -> Iterator[None]:
    """Turn whatever is raised about a corrupt file into a `DataError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zip files, JSON and NumPy's headers fail in many ways
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise DataError(f"{path}: damaged: {' '.join(reason.split())[:200]}") from error
