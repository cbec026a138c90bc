"""Scaling of features: standardization, and vectors of length 1."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Rows of a chunk: float64 copies of features are made chunk by chunk.
ROWS = 8192

# Unit vectors are rounded to multiples of this. The products of their elements are multiples of
# 2**-52 and add up to at most about 1, so float64 holds every sum exactly, in any order.
UNIT = 2.0**-26


def chunks(count: int, rows: int = ROWS) -> Iterator[slice]:
    """Yield slices that cover `count` rows in order."""
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


class Standardization(NamedTuple):
    """Subtracts a mean from each feature, and divides by a standard deviation."""

    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return standardized features, float64."""
        return (features.astype(np.float64) - self.mean) / self.deviation


def standardization(features: Float[np.ndarray, "n d"]) -> Standardization:
    """Return the standardization to mean 0 and standard deviation 1 of some images.

    A feature that does not vary, at the precision of float32, is not divided.
    """
    count, width = features.shape
    total, squares = np.zeros(width), np.zeros(width)
    for span in chunks(count):
        total += features[span].sum(axis=0, dtype=np.float64)
    mean = total / count
    for span in chunks(count):
        squares += np.square(features[span].astype(np.float64) - mean).sum(axis=0)
    deviation = np.sqrt(squares / count)
    constant = deviation <= np.finfo(np.float32).eps * np.abs(mean)
    return Standardization(mean, np.where(constant, 1.0, deviation))


def unit_vectors(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return features scaled to length 1 and rounded to multiples of `UNIT`, float64.

    Features that are all 0 stay 0.
    """
    values = features.astype(np.float64)
    length = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    values /= np.where(length > 0, length, 1.0)
    return np.rint(values / UNIT) * UNIT
