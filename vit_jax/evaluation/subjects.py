"""Models under evaluation: a checkpoint on the devices, and its metrics on a source."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import pretrained
from vit_jax.data.sources import Source
from vit_jax.evaluation.classification import accuracy_intervals, format_metrics
from vit_jax.evaluation.evaluators import Result, make_evaluators
from vit_jax.evaluation.loop import Evaluation, format_result
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.scores import score


class Measured(NamedTuple):
    """Metrics and predictions of a model for the images of one source."""

    results: dict[str, Result]  # by label
    intervals: dict[str, dict[str, list[float]]]  # by label and metric
    predictions: Predictions | None  # None if no evaluator of the run makes them
    lines: list[str]  # the results as text


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained model that is evaluated."""

    workdir: epath.Path
    trained: pretrained.Trained
    evaluation: Evaluation
    weights: str  # `ema` or `raw`; empty for a run with one set of weights

    @property
    def predicts(self) -> bool:
        """Whether an evaluator of the run makes predictions."""
        return self.evaluation.predicts

    def measure(
        self,
        source: Source,
        name: str,
        relabel: Callable[[Predictions], Predictions] | None = None,
    ) -> Measured:
        """Return metrics and predictions from one pass over the images of a source.

        Args:
          source: The images.
          name: The name of the set.
          relabel: Maps the predictions to those for other classes, which are then measured.
        """
        evaluation, raw = self.evaluation, self.weights == "raw"
        results, found = evaluation.collect(self.trained.variables, source, name, raw=raw)
        if found is not None:
            names = self.trained.class_names or found.class_names
            found = found._replace(class_names=names[: found.logits.shape[1]])
            if relabel is not None:
                return _measure(relabel(found))
        intervals = evaluation.intervals(name, results, raw=raw)
        return Measured(results, intervals, found, evaluation.format(name, results, raw=raw))


def _measure(predictions: Predictions) -> Measured:
    """Return the metrics of the classification evaluator, from predictions for other classes."""
    scores, label = score(predictions), predictions.name
    result: Result = {
        "top1": float(scores.correct.mean()),
        "top5": float(scores.hits.any(axis=1).mean()),
        "loss": float(scores.loss.mean()),
        "count": len(scores.labels),
        "skipped": predictions.skipped,
    }
    intervals = {key: list(of) for key, of in accuracy_intervals(result).items()}
    line = format_result(label, format_metrics(result), result)
    return Measured({label: result}, {label: intervals}, predictions, [line])


def open_subject(
    workdir: epath.Path,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    evaluator: str,
    *,
    step: str = "",
    weights: str = "",
    allowed: Sequence[str] | None = None,
) -> Subject:
    """Restore a model onto a mesh, and make its evaluators.

    Args:
      workdir: The run folder.
      config: The config to evaluate it with.
      mesh: The devices.
      evaluator: The evaluator of the run's objective.
      step: A step number, `best`, or an empty string for the newest checkpoint.
      weights: `ema`, `raw`, or an empty string for the EMA if there is one.
      allowed: Keys that may differ from the checkpoint's config; see `pretrained.restore`.

    Raises:
      UserError: There is no such checkpoint, or it does not fit the config.
    """
    trained = pretrained.open_run(workdir, step, config, mesh, weights=weights, allowed=allowed)
    evaluators = make_evaluators(config, trained.model, evaluator)
    return Subject(workdir, trained, Evaluation(evaluators, config, mesh), trained.weights)
