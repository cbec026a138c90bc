"""Balanced accuracy: the mean recall of the classes, and its interval."""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from vit_jax.evaluation.statistics.intervals import Interval, bca


def balanced_accuracy(matrix: Int[np.ndarray, "k k"]) -> float:
    """Return the mean recall of the classes that have images (Brodersen et al. 2010, section II).

    Args:
      matrix: The number of images by label and by predicted class; see `confusion_matrix`.
    """
    hits, supports = np.diag(matrix), matrix.sum(axis=1)
    return float(_mean_recall(np.concatenate([hits, supports - hits])[None].astype(np.float64))[0])


def balanced_accuracy_interval(
    matrix: Int[np.ndarray, "k k"], confidence: float = 0.95, **options: int
) -> Interval:
    """Return the BCa interval of the balanced accuracy.

    A class that has no image in a resample does not count there.

    Args:
      matrix: The number of images by label and by predicted class.
      confidence: The share of test sets of which the interval contains the true value.
      **options: `resamples` and `seed` of `bca`.
    """
    hits, supports = np.diag(matrix), matrix.sum(axis=1)
    counts = np.concatenate([hits, supports - hits])
    each = sparse.eye_array(len(counts), format="csr")
    return bca(each, _mean_recall, counts=counts, confidence=confidence, **options)


def _mean_recall(sums: Float[np.ndarray, "b m"]) -> Float[np.ndarray, " b"]:
    """Return the mean recall of the classes with images, from the hits, then misses, of each."""
    hits, misses = np.split(sums, 2, axis=-1)
    supports = hits + misses
    present = supports > 0
    recalls = np.divide(hits, supports, out=np.zeros_like(hits), where=present)
    counts = present.sum(axis=-1)
    total = recalls.sum(axis=-1)
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
