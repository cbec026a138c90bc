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


@dataclasses.dataclass(frozen=True)
class Task:
    """What a probe is fitted on, what chooses its penalty, and what it predicts.

    For each penalty, the probe is fitted on `fitting` and measured on `choosing`. With the best of
    them, it is fitted on `train`.
    """

    train: Labelled
    fitting: Labelled
    choosing: Labelled
    test: Labelled
    num_classes: int
    settings: Settings

    @functools.cached_property
    def neighbours(self) -> Neighbours:
        """The nearest training images of each test image."""
        return find_neighbours(self.train, self.test.features, self.settings.neighbours)


def make_task(
    train: Labelled,
    val: Labelled | None,
    test: Labelled,
    num_classes: int,
    settings: Settings | None = None,
) -> Task:
    """Return a task; without `val`, a quarter of `train` chooses penalties.

    Args:
      train: The training images.
      val: The images that choose penalties. None: every fourth image of each class of `train`.
      test: The images to predict.
      num_classes: Number of classes.
      settings: The settings of the probes.

    Raises:
      DataError: Features or labels are invalid, `train` has only one class, or so few images that
        none can be set apart.
    """
    for name, part in (("train", train), ("val", val), ("test", test)):
        if part is not None:
            check(name, part, train.features.shape[1], num_classes)
    if len(np.unique(train.labels)) < 2:
        raise DataError("train: expected images of at least two classes, got one class")
    fitting, choosing = train, val
    if choosing is None:
        apart = set_apart(train.labels)
        if not apart.any():
            problem = f"no class has {EVERY} images, so that one could choose the penalties"
            raise DataError(f"train: {problem}; a val split can")
        fitting, choosing = train.take(~apart), train.take(apart)
    return Task(train, fitting, choosing, test, num_classes, settings or Settings())


def measure(predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Result:
    """Return the top-1 accuracy of predictions, with Wilson's 95 % interval."""
    correct, count = int((predicted == labels).sum()), len(labels)
    low, high = wilson(correct, count)
    top1 = {"value": correct / count, "low": low, "high": high, "method": "wilson"}
    return {"top1": top1, "count": count}
