"""The interface of a weight file: headers by name, and arrays that are read one at a time."""

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

# The supported dtypes, by their names in safetensors. Parameters are floats. The other dtypes are
# those of tables and counters beside them.
FLOATS = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
NON_FLOATS = {"BOOL": np.dtype(bool)} | {
    f"{kind}{8 * size}": np.dtype(f"{kind.lower()}{size}")
    for kind in ("I", "U")
    for size in (1, 2, 4, 8)
}
DTYPES = FLOATS | NON_FLOATS
CHUNK = 1 << 24  # bytes per read


class Header(NamedTuple):
    """The shape and dtype of an array in a file."""

    shape: Shape
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """The size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """An open weight file, whose arrays are read one at a time; a context manager.

    Attributes:
      path: The path of the file, for errors.
      headers: The header of each array by name, in the order of the file.
      read: Returns an array by name, in its stored dtype and in new memory. Raises `DataError` if
        the array is corrupt.
      close: Closes the file.
      notes: Notes for the user on how the file was read.
      kind: `ema` for an exponential moving average, `raw` for the other weights of a file with
        both, or an empty string if the file does not say.
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
      path: The path of the file, for errors.
      stored: Shape and dtype of each array, as the file states them.
      dtypes: The supported dtypes, by their names in this format.

    Raises:
      DataError: A dtype is not supported.
      ValueError: A shape is impossible.
    """
    wrong = [f"{name} is {d}" for name, (_, d) in stored.items() if d not in dtypes]
    if wrong:
        expected = "float64, float32, float16, bfloat16 or integers"
        raise DataError(f"{path}: expected arrays of {expected}; {', '.join(wrong[:3])}")
    headers = {name: Header(shape, dtypes[dtype]) for name, (shape, dtype) in stored.items()}
    for name, (shape, _) in headers.items():
        is_shape = len(shape) <= 32 and all(type(side) is int and side >= 0 for side in shape)
        if not is_shape or math.prod(side or 1 for side in shape) >= 1 << 60:
            raise ValueError(f"{name}: impossible shape {shape}")
    return headers


def read_into(file: Any, array: np.ndarray) -> None:
    """Fill a contiguous array from a stream.

    Args:
      file: The stream, at the first byte of the array.
      array: The array to fill.

    Raises:
      ValueError: The stream is too short.
    """
    content = array.reshape(-1).view(np.uint8)
    for begin in range(0, content.size, CHUNK):
        chunk = content[begin : begin + CHUNK]
        if file.readinto(chunk) != chunk.size:
            raise ValueError("truncated")


@contextlib.contextmanager
def reporting_corruption(path: pathlib.Path) -> Iterator[None]:
    """Turn any exception about a corrupt file into a one-line `DataError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zip files, JSON and NumPy's headers fail in many ways
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise DataError(f"{path}: corrupt: {' '.join(reason.split())[:200]}") from error
