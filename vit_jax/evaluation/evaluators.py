"""Evaluators by name: what is measured on the images of a source."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick
from vit_jax.evaluation.classification import Classification

Result = dict[str, float | int]


@runtime_checkable
class Evaluator(Protocol):
    """Metrics of a model, computed from sums over images, so that any batch size gives the same."""

    @property
    def score(self) -> str:
        """The metric that compares two checkpoints."""

    @property
    def maximize(self) -> bool:
        """Whether a higher score is better."""

    def zeros(self) -> Any:
        """Return the sums over no images: a dictionary of arrays, with an int32 `count`."""

    def __call__(self, variables: Mapping[str, Any], batch: Mapping[str, Array]) -> Any:
        """Return the sums over the images of a batch; this is compiled.

        Args:
          variables: `params` and the other collections of the model.
          batch: `image`, uint8 (batch, height, width, channels); `label`, int32 (batch,); and
            `mask`, bool (batch,), which is False for rows that hold no image.
        """

    def means(self, totals: Mapping[str, Any]) -> Result:
        """Return the metrics from the sums over a whole source, and their `count`."""

    def format(self, result: Mapping[str, float]) -> str:
        """Return the metrics as text."""


PARTS = ("score", "maximize", "zeros", "means", "format")

# Each entry maps the model and the config of a run to an evaluator.
EVALUATORS: dict[str, Callable[[nn.Module, config_lib.Config], Evaluator]] = {
    "classification": Classification
}


def make_evaluators(
    config: config_lib.Config, model: nn.Module, default: str
) -> dict[str, Evaluator]:
    """Return the evaluators of a run by name.

    Args:
      config: The config of the run.
      model: The model.
      default: The evaluator of the run's objective, which is used if the config names none.

    Raises:
      ConfigError: An evaluator is unknown or incomplete, or two results would have the same label.
    """
    path = "config.eval.evaluators" if config.eval.evaluators else "config.objective"
    made: dict[str, Evaluator] = {}
    for name in config.eval.evaluators or (default,):
        made[name] = pick(EVALUATORS, name, path)(model, config)
        _check(made[name], name, path)
    sets = [*config_lib.SPLITS, *dict(config.eval.sets)]
    taken = [label for name in sets for label in labels(made, name).values()]
    for label in taken:
        if taken.count(label) > 1:
            problem = f"two results would have the name '{label}'; rename the set"
            raise ConfigError("config.eval.sets", problem)
    return made


def _check(evaluator: Any, name: str, path: str) -> None:
    """Check an evaluator on made-up sums, before a run depends on it.

    Raises:
      ConfigError: A method or a metric is missing.
    """
    if missing := [key for key in PARTS if not hasattr(evaluator, key)]:
        raise ConfigError(path, f"the evaluator {name} has no {', '.join(missing)}")
    sums = jax.tree.map(np.ones_like, jax.device_get(evaluator.zeros()))
    if "count" not in sums:
        raise ConfigError(path, f"the evaluator {name} has no count in zeros()")
    result = evaluator.means(sums)
    for key in ("count", evaluator.score):
        if key not in result:
            problem = f"means() of the evaluator {name} has no {key}, only {', '.join(result)}"
            raise ConfigError(path, problem)
    evaluator.format(result)


def labels(evaluators: Mapping[str, Evaluator], name: str, *, raw: bool = False) -> dict[str, str]:
    """Return the label of the result of each evaluator on a set, by name of the evaluator.

    The label of the first evaluator is the name of the set, such as `val`; the other labels are
    `val_EVALUATOR`.

    Args:
      evaluators: The evaluators of the run, by name.
      name: The name of the set.
      raw: Whether the weights themselves are evaluated, next to their EMA; adds `_raw`.
    """
    suffix = "_raw" if raw else ""
    first = next(iter(evaluators))
    return {
        evaluator: f"{name}{suffix}" if evaluator == first else f"{name}_{evaluator}{suffix}"
        for evaluator in evaluators
    }
