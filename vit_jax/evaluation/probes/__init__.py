"""Probes, by name: classifiers of frozen features, which show what the features tell apart."""

from collections.abc import Callable

from vit_jax.evaluation.probes.labelled import Labelled
from vit_jax.evaluation.probes.logistic_regression import logistic
from vit_jax.evaluation.probes.ridge_regression import ridge
from vit_jax.evaluation.probes.shots import few_shot
from vit_jax.evaluation.probes.task import Result, Settings, Task
from vit_jax.evaluation.probes.votes import knn, weighted_knn

__all__ = ["PROBES", "Labelled", "Result", "Settings", "Task"]

PROBES: dict[str, Callable[[Task], Result]] = {
    "knn": knn,
    "weighted_knn": weighted_knn,
    "ridge": ridge,
    "logistic": logistic,
    "few_shot": few_shot,
}
