"""The task of a probe: to predict the classes of images from their features."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vit_jax.errors import DataError
from vit_jax.evaluation.probes.labelled import EVERY, Labelled, check, set_apart
from vit_jax.evaluation.probes.neighbours import Neighbours, find_neighbours
from vit_jax.evaluation.statistics.intervals import wilson

Result = dict[str, Any]  # plain JSON


class Settings(NamedTuple):
    """The settings of the probes."""

    neighbours: int = 20
    temperature: float = 0.07  # of the weighted vote
    shots: tuple[int, ...] = (1, 5, 10, 25)  # training images of each class
    seeds: int = 5  # draws of the shots


class Choosing(NamedTuple):
    """For each penalty, a probe is fitted on `fitted` and measured on `measured`."""

    fitted: Labelled
    measured: Labelled


@dataclasses.dataclass(frozen=True)
class Task:
    """The images that a probe is fitted on, and those that it predicts.

    Raises:
      DataError: Features or labels are invalid, or `train` has only one class.
    """

    train: Labelled
    val: Labelled | None  # chooses penalties; None: every fourth image of each class of `train`
    test: Labelled
    num_classes: int
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        for name, part in parts.items():
            if part is not None:
                check(name, part, self.train.features.shape[1], self.num_classes)
        if len(np.unique(self.train.labels)) < 2:
            raise DataError("train: expected images of at least two classes, got one class")

    @functools.cached_property
    def choosing(self) -> Choosing:
        """The images that choose a penalty. With the chosen one, `train` is fitted as a whole.

        Raises:
          DataError: There are so few images that none can be set apart.
        """
        if self.val is not None:
            return Choosing(self.train, self.val)
        apart = set_apart(self.train.labels)
        if not apart.any():
            problem = f"no class has {EVERY} images, of which one could choose the penalty"
            raise DataError(f"train: {problem}; a val split can, or leave ridge and logistic out")
        return Choosing(self.train.take(~apart), self.train.take(apart))

    @functools.cached_property
    def neighbours(self) -> Neighbours:
        """The nearest training images of each test image."""
        return find_neighbours(self.train, self.test.features, self.settings.neighbours)


def measure(predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Result:
    """Return the top-1 accuracy of predictions, with Wilson's 95 % interval."""
    correct, count = int((predicted == labels).sum()), len(labels)
    low, high = wilson(correct, count)
    top1 = {"value": correct / count, "low": low, "high": high, "method": "wilson"}
    return {"top1": top1, "count": count}
