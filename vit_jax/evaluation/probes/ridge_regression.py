"""Linear classification by ridge regression to one-hot targets, in closed form."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.evaluation.probes.choosing import choose
from vit_jax.evaluation.probes.labelled import Labelled
from vit_jax.evaluation.probes.scaling import Standardization, chunks, standardization
from vit_jax.evaluation.probes.task import Result, Task, measure

# 0.01 to 1,000,000, two a decade.
PENALTIES = tuple(float(10 ** (i / 2)) for i in range(-4, 13))


class Ridge(NamedTuple):
    """A ridge regression of standardized features to one-hot targets, for any penalty.

    The weights W and the bias b minimize |X W + b - Y|^2 + penalty |W|^2 (Hoerl and Kennard 1970).
    With X^T X = V diag(e) V^T, W is V diag(1 / (e + penalty)) V^T X^T Y, and b is the mean of Y.
    """

    scale: Standardization
    vectors: Float[np.ndarray, "d e"]  # V, of eigenvalues that are not 0
    eigenvalues: Float[np.ndarray, " e"]
    targets: Float[np.ndarray, "e k"]  # V^T X^T Y
    bias: Float[np.ndarray, " k"]

    def predict(self, features: Float[np.ndarray, "n d"], penalty: float) -> Int[np.ndarray, " n"]:
        """Return the class of each image."""
        shrunk = self.targets / (self.eigenvalues[:, None] + penalty)
        weights = self.vectors @ shrunk
        predicted = np.empty(len(features), np.int64)
        for span in chunks(len(features)):
            scores = self.scale(features[span]) @ weights + self.bias
            predicted[span] = scores.argmax(axis=1)
        return predicted


def fit_ridge(train: Labelled, num_classes: int) -> Ridge:
    """Return the ridge regression of some images; float64.

    Args:
      train: The images.
      num_classes: Number of classes.
    """
    features, labels = train
    scale = standardization(features)
    vectors, eigenvalues = _decompose(features, scale)
    targets = np.zeros((len(eigenvalues), num_classes))
    for span in chunks(len(labels)):
        one_hot = np.equal(labels[span, None], np.arange(num_classes)).astype(np.float64)
        targets += (scale(features[span]) @ vectors).T @ one_hot
    bias = np.bincount(labels, minlength=num_classes) / len(labels)
    return Ridge(scale, vectors, eigenvalues, targets, bias)


def _decompose(
    features: Float[np.ndarray, "n d"], scale: Standardization
) -> tuple[Float[np.ndarray, "d e"], Float[np.ndarray, " e"]]:
    """Return V and e of X^T X = V diag(e) V^T; with n < d images, those of n eigenvalues."""
    count, width = features.shape
    if count < width:
        _, singular_values, rows = np.linalg.svd(scale(features), full_matrices=False)
        return rows.T, singular_values**2
    gram = np.zeros((width, width))
    for span in chunks(count):
        x = scale(features[span])
        gram += x.T @ x
    eigenvalues, vectors = np.linalg.eigh(gram)
    return vectors, np.maximum(eigenvalues, 0.0)


def ridge(task: Task) -> Result:
    """Predict by ridge regression, with the penalty that is best on the choosing images."""
    fitted, (features, labels) = task.choosing
    first = fit_ridge(fitted, task.num_classes)
    choice = choose(PENALTIES, lambda penalty: first.predict(features, penalty), labels)
    last = first if fitted is task.train else fit_ridge(task.train, task.num_classes)
    predicted = last.predict(task.test.features, choice.penalty)
    return {**measure(predicted, task.test.labels), **choice._asdict()}
