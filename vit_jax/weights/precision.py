"""The dtypes of parameters in a file: what they become here, and as what they go back."""

import collections
from collections.abc import Callable, Mapping

import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.files.base import FLOATS, Read

FLOAT32 = np.dtype(np.float32)
# Other dtypes that parameters may have, by their names in NumPy.
OTHER_FLOATS = {dtype.name: dtype for dtype in FLOATS.values() if dtype != FLOAT32}


def to_float32(name: str, array: np.ndarray, where: str) -> np.ndarray:
    """Return a parameter in float32.

    Args:
      name: Of the array, for errors.
      array: As it is in a file.
      where: The file, for errors.

    Raises:
      DataError: Its values are no finite numbers of float32, or it is of whole numbers.
    """
    if array.dtype not in FLOATS.values():
        raise DataError(f"{where}: {name}: expected parameters, got whole numbers ({array.dtype})")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        wrong = "has values beyond float32" if np.isfinite(array).all() else "is not finite"
        count = values.size - np.count_nonzero(np.isfinite(values))
        raise DataError(f"{where}: {name} {wrong} ({count:,} of {values.size:,} values)")
    return values


class Dtypes:
    """Notes the dtypes of parameters that are read.

    Attributes:
      exact: Names of dtypes by array, of those that float32 holds exactly and that are not float32.
    """

    def __init__(self) -> None:
        self.exact: dict[str, str] = {}
        self._rounded: collections.Counter[str] = collections.Counter()

    def noting(self, read: Read) -> Read:
        """Return `read`, which notes dtypes besides."""

        def read_and_note(name: str) -> np.ndarray:
            array = read(name)
            if array.dtype in OTHER_FLOATS.values():
                if keeps_values(array, FLOAT32):
                    self.exact[name] = array.dtype.name
                else:
                    self._rounded[array.dtype.name] += 1
            return array

        return read_and_note

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know."""
        counts = collections.Counter(self.exact.values())
        notes = [f"{counts[dtype]} arrays of {dtype} became float32" for dtype in counts]
        for dtype, count in self._rounded.items():
            notes.append(f"{count} arrays of {dtype} were rounded to float32")
        return tuple(notes)


def keeps_values(array: np.ndarray, dtype: np.dtype) -> bool:
    """Return whether a dtype holds all values of an array exactly."""
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(dtype).astype(array.dtype), array)


def as_they_came(
    dtypes: Mapping[str, str], names: Mapping[str, object], make: Callable[[str], np.ndarray]
) -> tuple[dict[str, np.dtype], tuple[str, ...]]:
    """Return the dtypes with which to write arrays, and a note where they are not as they came.

    Args:
      dtypes: Names of dtypes by array, of those that came in another than float32.
      names: The arrays to write.
      make: Returns an array by its name, in float32.
    """
    came = {name: OTHER_FLOATS[dtype] for name, dtype in dtypes.items() if name in names}
    kinds = ", ".join(sorted(set(dtypes.values())))
    if came.keys() != dtypes.keys():  # of another library
        return {}, (f"written in float32; the weights came in {kinds}",)
    if all(keeps_values(make(name), dtype) for name, dtype in came.items()):
        return came, ()
    return {}, (f"written in float32: {kinds}, as the weights came, does not hold their values",)
