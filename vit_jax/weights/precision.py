"""Convert parameters of any float dtype to float32, and back to their dtype on export."""

import collections
from collections.abc import Callable, Mapping

import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.files.base import FLOATS, Read

FLOAT32 = np.dtype(np.float32)
# The other dtypes that parameters may have, by NumPy's names.
OTHER_FLOATS = {dtype.name: dtype for dtype in FLOATS.values() if dtype != FLOAT32}


def to_float32(name: str, array: np.ndarray, where: str) -> np.ndarray:
    """Convert a parameter to float32.

    Args:
      name: The name of the array, for errors.
      array: The array as stored in the file.
      where: The file, for errors.

    Raises:
      DataError: A value is not finite in float32, or the array is not of floats.
    """
    if array.dtype not in FLOATS.values():
        raise DataError(f"{where}: {name}: expected floating-point numbers, got {array.dtype}")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        is_finite = np.isfinite(array).all()
        wrong = "has values out of the range of float32" if is_finite else "is not finite"
        count = values.size - np.count_nonzero(np.isfinite(values))
        raise DataError(f"{where}: {name} {wrong} ({count:,} of {values.size:,} values)")
    return values


class Dtypes:
    """Records the dtypes of the parameters that are read.

    Attributes:
      exact: The dtype names of the arrays that are not float32 and that float32 represents
        exactly, by array name.
    """

    def __init__(self) -> None:
        self.exact: dict[str, str] = {}
        self._rounded: collections.Counter[str] = collections.Counter()

    def recording(self, read: Read) -> Read:
        """Return a function that reads like `read` and records dtypes."""

        def read_and_record(name: str) -> np.ndarray:
            array = read(name)
            if array.dtype in OTHER_FLOATS.values():
                if is_lossless(array, FLOAT32):
                    self.exact[name] = array.dtype.name
                else:
                    self._rounded[array.dtype.name] += 1
            return array

        return read_and_record

    def notes(self) -> tuple[str, ...]:
        """Return notes for the user on converted dtypes."""
        counts = collections.Counter(self.exact.values())
        notes = [f"{counts[dtype]} arrays of {dtype} were converted to float32" for dtype in counts]
        for dtype, count in self._rounded.items():
            notes.append(f"{count} arrays of {dtype} were rounded to float32")
        return tuple(notes)


def is_lossless(array: np.ndarray, dtype: np.dtype) -> bool:
    """Return whether a dtype represents all values of an array exactly."""
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(dtype).astype(array.dtype), array)


def restore_dtypes(
    dtypes: Mapping[str, str], names: Mapping[str, object], make: Callable[[str], np.ndarray]
) -> tuple[dict[str, np.dtype], tuple[str, ...]]:
    """Return the original dtypes of arrays if they still represent the values exactly.

    Args:
      dtypes: The dtype names of the arrays that were not float32 on import, by array name.
      names: The arrays to write.
      make: Returns an array by name, in float32.

    Returns:
      The dtypes to write with, by array name (float32 for all others), and a note if the original
      dtypes are not used.
    """
    original = {name: OTHER_FLOATS[dtype] for name, dtype in dtypes.items() if name in names}
    kinds = ", ".join(sorted(set(dtypes.values())))
    if original.keys() != dtypes.keys():  # the names belong to another library
        return {}, (f"written in float32; the imported weights were {kinds}",)
    if all(is_lossless(make(name), dtype) for name, dtype in original.items()):
        return original, ()
    return {}, (f"written in float32: {kinds}, the imported dtype, would round the values",)
