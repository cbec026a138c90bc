"""Features of images with the class of each image."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vit_jax.errors import DataError

# `set_apart` takes every fourth image of a class.
EVERY = 4


class Labelled(NamedTuple):
    """Features of images, and the class of each image."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]

    def take(self, rows: np.ndarray) -> "Labelled":
        """Return some of the images, by index or by mask."""
        return Labelled(self.features[rows], self.labels[rows])


def set_apart(labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return a mask of every fourth image of each class, in order."""
    apart = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        apart[np.flatnonzero(labels == label)[EVERY - 1 :: EVERY]] = True
    return apart


def count_known(train: Labelled, others: Labelled) -> int:
    """Return how many other images have exactly the features of an image of `train`."""
    known = {hash(row.tobytes()) for row in train.features}
    return sum(hash(row.tobytes()) in known for row in others.features)


def check(name: str, part: Labelled, width: int, num_classes: int) -> None:
    """Check features and labels.

    Args:
      name: The name of the images, for the error.
      part: The images.
      width: The expected number of features.
      num_classes: Number of classes.

    Raises:
      DataError: There are no images, a feature is not finite, or a number is not the expected one.
    """
    features, labels = part
    if not len(labels):
        raise DataError(f"{name}: expected images with features, got none")
    if features.shape[1] != width:
        problem = f"expected {width:,} features, as train has, got {features.shape[1]:,}"
        raise DataError(f"{name}: {problem}")
    if labels.min() < 0 or labels.max() >= num_classes:
        problem = f"expected labels from 0 to {num_classes - 1}"
        raise DataError(f"{name}: {problem}, got {labels.min()} to {labels.max()}")
    if bad := int((~np.isfinite(features).all(axis=1)).sum()):
        raise DataError(f"{name}: the features of {bad:,} images are not finite")
