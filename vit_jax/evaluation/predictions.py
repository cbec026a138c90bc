"""The predictions of a model for the images of a set, one row for each image."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.evaluation.statistics.intervals import Interval


class Outputs(NamedTuple):
    """The outputs of a model for a batch; see `models.Output`."""

    logits: Float[Array, "b k"]
    features: Float[Array, "b d"]


class PredictionEvaluator(abc.ABC):
    """An evaluator whose sums follow from the outputs for each image, so that one pass gives both.

    A subclass that overrides `__call__` has sums, and no predictions.
    """

    @property
    @abc.abstractmethod
    def loss(self) -> str:
        """The name in `losses.LOSSES` of the loss of the model, which says what its logits mean."""

    @abc.abstractmethod
    def outputs(self, variables: Mapping[str, Any], batch: Mapping[str, Array]) -> Outputs:
        """Return the outputs for the rows of a batch; this is compiled."""

    @abc.abstractmethod
    def total(self, outputs: Outputs, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the sums over the images of a batch; this is compiled."""

    def __call__(
        self, variables: Mapping[str, Any], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return the sums over the images of a batch."""
        return self.total(self.outputs(variables, batch), batch)

    def intervals(self, result: Mapping[str, float]) -> dict[str, Interval]:
        """Return the 95 % confidence intervals of metrics that follow from a result alone."""
        return {}

    @property
    def predicts(self) -> bool:
        """Whether the sums are those of `outputs`."""
        return type(self).__call__ is PredictionEvaluator.__call__


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
    outputs: Int[np.ndarray, " n"] | None = None  # the output of the model behind each prediction

    @property
    def predicted_outputs(self) -> Int[np.ndarray, " n"]:
        """The output of the model with the largest logit; with a label set, of those that count."""
        return self.logits.argmax(axis=1) if self.outputs is None else self.outputs

    def without_features(self) -> "Predictions":
        """Return the predictions without the features, which then need no memory."""
        return self._replace(features=np.empty((len(self.labels), 0), np.float32))
