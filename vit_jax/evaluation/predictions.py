"""The predictions of a model for the images of a set, one row for each image."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from vit_jax.evaluation.probabilities import PROBABILITIES


class Predictions(NamedTuple):
    """The outputs of a model for every readable image of a set, in the order of the source.

    Shapes: n images, k classes, width d of the features.
    """

    name: str  # label of the result, such as `test`
    title: str  # title of the source
    ids: tuple[str, ...]  # name of each image; see `Source.describe`
    indices: Int[np.ndarray, " n"]  # index of each image in the source, increasing
    labels: Int[np.ndarray, " n"]
    logits: Float[np.ndarray, "n k"]  # float32
    features: Float[np.ndarray, "n d"]  # float32; the pooled features before the head
    class_names: tuple[str, ...]  # k names
    loss: str  # name of the loss that the model was trained with
    skipped: int  # number of unreadable images
    also_correct: Bool[np.ndarray, "n k"] | None = None  # further correct classes of each image

    def probabilities(self, temperature: float = 1.0) -> Float[np.ndarray, "n k"]:
        """Return the probability of each class, float32, from logits divided by a temperature."""
        scaled = self.logits / np.float32(temperature)
        return np.asarray(PROBABILITIES[self.loss](jax.numpy.asarray(scaled)))
