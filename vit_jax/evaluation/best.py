"""Which result of an evaluation chooses the best checkpoint (`config.eval.best`)."""

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
    """The figure that chooses the best checkpoint."""

    label: str  # of the result that it is in
    metric: str
    maximize: bool

    @property
    def name(self) -> str:
        """The name of the figure, such as `val_top1`."""
        return f"{self.label}_{self.metric}"

    def score(self, results: Mapping[str, Result]) -> float | None:
        """Return the score of a checkpoint, the highest of which is the best.

        There is none where nothing was evaluated, or where the figure is not finite.
        """
        if self.label not in results:
            return None
        value = results[self.label][self.metric]
        return self.signed(value) if math.isfinite(value) else None

    def signed(self, value: float) -> float:
        """Return the score of a figure; also the figure of a score."""
        return value if self.maximize else -value


def find_best(
    config: config_lib.Config, evaluators: Mapping[str, Evaluator], sets: Sequence[str]
) -> Best | None:
    """Return what chooses the best checkpoint; by default the first evaluator on val, if it is set.

    Args:
      config: Of the run.
      evaluators: By name.
      sets: Names of the sets that are evaluated while training.

    Raises:
      ConfigError: There is no such set or evaluator.
    """
    asked = config.eval.best
    if not asked and DEFAULT not in sets:
        return None
    first = next(iter(evaluators))
    choices = {name: (name, first) for name in sets}
    choices |= {f"{name}/{key}": (name, key) for name in sets for key in evaluators}
    found = choices.get(asked or DEFAULT)
    if found is None:
        hint = suggest(asked, choices) if choices else "set config.data.val_split or eval.sets"
        raise ConfigError(PATH, f"no set '{asked}' is evaluated while training; {hint}")
    name, key = found
    evaluator = evaluators[key]
    return Best(labels(evaluators, name)[key], evaluator.score, evaluator.maximize)
