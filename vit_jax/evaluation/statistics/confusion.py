"""Confusion: which classes a model takes for which, and the precision and recall of each."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class PerClass(NamedTuple):
    """Figures of each class; NaN where they are undefined."""

    precision: Float[np.ndarray, " k"]  # undefined for a class that is never predicted
    recall: Float[np.ndarray, " k"]  # undefined for a class without images
    f1: Float[np.ndarray, " k"]  # undefined for a class that has neither
    support: Int[np.ndarray, " k"]  # images of the class
    predicted: Int[np.ndarray, " k"]  # images that are predicted to be of the class


class Confused(NamedTuple):
    """Images of one class that are taken for another."""

    label: int
    predicted: int
    images: int


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Return the number of images by label (row) and predicted class (column).

    Args:
      labels: The class of each image.
      predicted: The predicted class of each image.
      num_classes: The number of classes, k.
    """
    cells = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(matrix: Int[np.ndarray, "k k"]) -> PerClass:
    """Return precision, recall and F1 of each class, the harmonic mean of the two.

    Args:
      matrix: The number of images by label and predicted class.
    """
    hits, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return PerClass(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + predicted),
        support=support,
        predicted=predicted,
    )


def most_confused(matrix: Int[np.ndarray, "k k"], top: int = 20) -> list[Confused]:
    """Return the pairs of classes with the most wrong predictions, most images first.

    Pairs with as many images are in the order of their classes.

    Args:
      matrix: The number of images by label and predicted class.
      top: The greatest number of pairs.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    labels, predicted = np.nonzero(wrong)
    counts = wrong[labels, predicted]
    order = np.argsort(-counts, kind="stable")[:top]
    return [
        Confused(label, other, count)
        for label, other, count in zip(
            labels[order].tolist(), predicted[order].tolist(), counts[order].tolist(), strict=True
        )
    ]


def _ratio(part: Int[np.ndarray, " k"], whole: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
