"""Probes, by name: classifiers of frozen features, which show what the features tell apart."""

from collections.abc import Callable
from typing import NamedTuple

from vit_jax.evaluation.probes.labelled import Labelled
from vit_jax.evaluation.probes.logistic_regression import import_solver, logistic
from vit_jax.evaluation.probes.ridge_regression import ridge
from vit_jax.evaluation.probes.shots import few_shot
from vit_jax.evaluation.probes.task import Result, Settings, Task
from vit_jax.evaluation.probes.votes import knn, weighted_knn

__all__ = ["PROBES", "Labelled", "Probe", "Result", "Settings", "Task"]


class Probe(NamedTuple):
    """A classifier of frozen features.

    Attributes:
      measure: Fits it and measures its accuracy on the test images.
      scaling: What it does to the features first.
      chooses: Whether it chooses a penalty.
      require: Raises an `InputMissingError` if a package that it needs is not installed.
    """

    measure: Callable[[Task], Result]
    scaling: str
    chooses: bool = False
    require: Callable[[], object] = lambda: None


_LENGTH = "vectors of length 1"
_STANDARD = "mean 0 and standard deviation 1 in train"

PROBES: dict[str, Probe] = {
    "knn": Probe(knn, _LENGTH),
    "weighted_knn": Probe(weighted_knn, _LENGTH),
    "ridge": Probe(ridge, _STANDARD, chooses=True),
    "logistic": Probe(logistic, _STANDARD, chooses=True, require=import_solver),
    "few_shot": Probe(few_shot, f"{_STANDARD}, of the few images"),
}
