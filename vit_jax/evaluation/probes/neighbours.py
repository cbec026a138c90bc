"""The nearest neighbours of images among the training images, by cosine similarity."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.evaluation.probes.labelled import Labelled
from vit_jax.evaluation.probes.scaling import chunks, unit_vectors

# Number of images that are compared with a chunk of training images at once.
ROWS = 512


class Neighbours(NamedTuple):
    """The most similar training images of each image, the nearest first."""

    labels: Int[np.ndarray, "n k"]
    similarity: Float[np.ndarray, "n k"]  # cosine, from -1 to 1


def find_neighbours(train: Labelled, features: Float[np.ndarray, "n d"], k: int) -> Neighbours:
    """Return the `k` nearest training images of each image, or all if there are fewer.

    Of equally similar images, the first in the training set is the nearest. The similarities are
    exact sums (see `scaling.UNIT`), so the neighbours do not depend on chunks and threads.

    Args:
      train: The training images.
      features: Features of the images.
      k: Number of neighbours.
    """
    count = len(features)
    k = min(k, len(train.labels))
    labels = np.zeros((count, k), train.labels.dtype)
    similarity = np.full((count, k), -np.inf)
    images = unit_vectors(features)
    for part in chunks(len(train.labels)):
        known = unit_vectors(train.features[part]).T
        for span in chunks(count, ROWS):
            both = np.concatenate([similarity[span], images[span] @ known], axis=1)
            columns = largest(both, k)
            similarity[span] = np.take_along_axis(both, columns, axis=1)
            new = train.labels[part][np.maximum(columns - k, 0)]
            old = np.take_along_axis(labels[span], np.minimum(columns, k - 1), axis=1)
            labels[span] = np.where(columns < k, old, new)
    return Neighbours(labels, similarity)


def largest(values: Float[np.ndarray, "n m"], k: int) -> Int[np.ndarray, "n k"]:
    """Return the columns of the `k` largest values of each row, the largest first.

    Of equal values, the first are taken, in order.
    """
    kth = np.partition(values, -k, axis=1)[:, -k, None]
    above = values > kth
    level = values == kth
    missing = k - above.sum(axis=1, keepdims=True)
    taken = above | (level & (np.cumsum(level, axis=1) <= missing))
    columns = np.nonzero(taken)[1].reshape(len(values), k)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
