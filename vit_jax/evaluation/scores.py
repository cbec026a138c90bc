"""Scores of predictions for each image: what is predicted, how surely, and whether it is right."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.evaluation.losses import LOSSES
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.probabilities import PROBABILITIES

ROWS = 4096  # images that are scored at once, which bounds the memory


class Scores(NamedTuple):
    """The scores of n images; the t = min(5, k) most probable classes come first.

    Outputs that are not finite predict no class: the image is wrong, and its probabilities are NaN.
    """

    finite: Bool[np.ndarray, " n"]  # whether all logits are
    labels: Int[np.ndarray, " n"]  # of several correct classes, the predicted one if it is right
    top: Int[np.ndarray, "n t"]  # the most probable classes
    probabilities: Float[np.ndarray, "n t"]  # theirs
    label_probability: Float[np.ndarray, " n"]  # that of `labels`
    loss: Float[np.ndarray, " n"]  # NaN where several classes are correct
    hits: Bool[np.ndarray, "n t"]  # whether each of the most probable classes is correct

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The most probable class."""
        return self.top[:, 0]

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """The probability of the most probable class."""
        return self.probabilities[:, 0]

    @property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """Whether the most probable class is correct."""
        return self.hits[:, 0]

    @property
    def margin(self) -> Float[np.ndarray, " n"]:
        """The probability of the most probable class minus that of the next."""
        return self.probabilities[:, 0] - self.probabilities[:, min(1, self.top.shape[1] - 1)]

    def rows(self, chosen: np.ndarray) -> "Scores":
        """Return the scores of some images, by index or by a mask."""
        return Scores(*(column[chosen] for column in self))


def score(predictions: Predictions, temperature: float = 1.0) -> Scores:
    """Return the scores of predictions, whose logits are divided by a temperature.

    Args:
      predictions: The predictions.
      temperature: The temperature (Guo et al. 2017, section 4.2).
    """
    parts = []
    for start in range(0, len(predictions.labels), ROWS):
        rows = slice(start, start + ROWS)
        logits = predictions.logits[rows] / np.float32(temperature)
        parts.append(jax.device_get(_score(logits, predictions.labels[rows], predictions.loss)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    finite, top = columns[:2]
    probabilities, of_label, loss = (column.astype(np.float64) for column in columns[2:])
    labels, correct = predictions.labels, top == predictions.labels[:, None]
    if predictions.also_correct is not None:
        correct |= np.take_along_axis(predictions.also_correct, top, axis=1)
        right = correct[:, 0] & finite
        labels = np.where(right, top[:, 0], labels)
        of_label = np.where(right, probabilities[:, 0], of_label)
        loss = np.full_like(loss, np.nan)
    return Scores(finite, labels, top, probabilities, of_label, loss, correct & finite[:, None])


def _score(
    logits: Float[np.ndarray, "b k"], labels: Int[np.ndarray, " b"], loss: str
) -> tuple[Array, ...]:
    finite = jnp.isfinite(logits).all(axis=1)
    probabilities = PROBABILITIES[loss](jnp.asarray(logits))
    probabilities = jnp.where(finite[:, None], probabilities, jnp.nan)
    _, top = jax.lax.top_k(jnp.asarray(logits), min(5, logits.shape[1]))
    one_hot = jax.nn.one_hot(labels, logits.shape[1])
    of_label = jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    of_top = jnp.take_along_axis(probabilities, top, axis=1)
    return finite, top, of_top, of_label, LOSSES[loss](jnp.asarray(logits), one_hot)
