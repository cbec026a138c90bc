"""The metric that selects the best checkpoint (`config.eval.best`)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, suggest
from vit_jax.evaluation.evaluators import Evaluator, Result, labels

DEFAULT = "val"
PATH = "config.eval.best"


@dataclasses.dataclass(frozen=True)
class Best:
    """The metric that selects the best checkpoint."""

    label: str  # the label of the result that contains the metric
    metric: str
    maximize: bool

    @property
    def name(self) -> str:
        """The name of the metric, such as `val_top1`."""
        return f"{self.label}_{self.metric}"

    def score(self, results: Mapping[str, Result]) -> float | None:
        """Return the score of a checkpoint; the best checkpoint has the highest score.

        The score is None if the set was not evaluated, or if the metric is not finite.
        """
        if self.label not in results:
            return None
        value = results[self.label][self.metric]
        return self.signed(value) if math.isfinite(value) else None

    def signed(self, value: float) -> float:
        """Return the score for a value of the metric, or the value for a score."""
        return value if self.maximize else -value


def find_best(
    config: config_lib.Config, evaluators: Mapping[str, Evaluator], sets: Sequence[str]
) -> Best | None:
    """Return the metric that selects the best checkpoint; None if there is none.

    The default is the score of the first evaluator on the validation split.

    Args:
      config: The config of the run.
      evaluators: The evaluators of the run, by name.
      sets: Names of the sets that are evaluated while training.

    Raises:
      ConfigError: There is no such set or evaluator.
    """
    requested = config.eval.best
    if not requested and DEFAULT not in sets:
        return None
    first = next(iter(evaluators))
    choices = {name: (name, first) for name in sets}
    choices |= {f"{name}/{key}": (name, key) for name in sets for key in evaluators}
    found = choices.get(requested or DEFAULT)
    if found is None:
        hint = suggest(requested, choices) if choices else "set config.data.val_split or eval.sets"
        raise ConfigError(PATH, f"no set '{requested}' is evaluated while training; {hint}")
    name, key = found
    evaluator = evaluators[key]
    return Best(labels(evaluators, name)[key], evaluator.score, evaluator.maximize)
