"""Apply a label set to the predictions of a model: pure functions of arrays."""

import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from vit_jax.errors import DataError
from vit_jax.evaluation.label_sets.matching import Match
from vit_jax.evaluation.predictions import Predictions

_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")  # file names of ImageNet's validation images


def apply(
    predictions: Predictions, match: Match, file_name: Callable[[int], str] | None = None
) -> Predictions:
    """Return predictions for the classes of a label set.

    A class that stands for several classes of the model has the largest of their logits, so its
    top-1 is that of ObjectNet (Barbu et al. 2019). Images without a correct class are left out.

    Args:
      predictions: Predictions for the classes of the model; the labels are those of the data set.
      match: The match of the label set with the data set and the model.
      file_name: File name of an image by its index in the source; by default, `predictions.ids`.
        Only used if the label set has the correct classes of each image.

    Raises:
      DataError: No image is left, or an image has no number.
    """
    labels = match.labels[predictions.labels]
    correct = None
    kept = labels >= 0
    if match.correct:
        by_index = dict(zip(predictions.indices.tolist(), predictions.ids, strict=True))
        names = [(file_name or by_index.__getitem__)(i) for i in predictions.indices.tolist()]
        correct = _correct(names, match)
        kept = correct.any(axis=1)
        rows = np.arange(len(labels))
        labels = np.where(correct[rows, labels] & (labels >= 0), labels, correct.argmax(axis=1))
    if not kept.any():
        raise DataError(f"{predictions.title}: no image has a class of {match.name}")
    columns = np.concatenate(match.columns)
    logits = predictions.logits[np.ix_(kept, columns)]
    return predictions._replace(
        title=f"{predictions.title}, labels {match.name}",
        ids=tuple(id for id, keep in zip(predictions.ids, kept, strict=True) if keep),
        indices=predictions.indices[kept],
        labels=labels[kept].astype(predictions.labels.dtype),
        logits=_largest(logits, match),
        features=predictions.features[kept],
        class_names=match.class_names,
        also_correct=None if correct is None else correct[kept],
        outputs=columns[logits.argmax(axis=1)],
    )


def _largest(logits: Float[np.ndarray, "n k"], match: Match) -> Float[np.ndarray, "n c"]:
    """Return the largest logit of each class, from those of its columns, class by class."""
    starts = np.cumsum([0, *(len(columns) for columns in match.columns[:-1])])
    return np.maximum.reduceat(logits, starts, axis=1)


def _correct(names: list[str], match: Match) -> Bool[np.ndarray, "n c"]:
    """Return the correct classes of images of ImageNet's validation set, by their numbers."""
    correct = np.zeros((len(names), len(match.class_names)), bool)
    for row, name in enumerate(names):
        found = _IMAGE.search(name)
        if not found or not 0 < int(found[1]) <= len(match.correct):
            expected = "expected a file name such as ILSVRC2012_val_00000001.JPEG"
            raise DataError(f"{match.name} labels images by number; {expected}, got '{name}'")
        correct[row, list(match.correct[int(found[1]) - 1])] = True
    return correct
