"""Compare the predictions of two models for the same images, by paired tests."""

import contextlib
from typing import Any

import numpy as np
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import seals
from vit_jax.checkpoints.reading import read_class_names
from vit_jax.data.sources.class_names import same
from vit_jax.errors import CheckpointError, ConfigError, DataError
from vit_jax.evaluation.analysis import Document, metrics
from vit_jax.evaluation.evaluators import make_evaluators
from vit_jax.evaluation.loop import find_predictor
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.scores import score
from vit_jax.evaluation.statistics.paired import mcnemar, paired_bootstrap

LISTED = 50  # images that are listed at most


def check_run(
    workdir: epath.Path, config: config_lib.Config, num_classes: int, evaluator: str
) -> None:
    """Check that another run predicts as many classes, before any image is evaluated.

    Args:
      workdir: The folder of the other run.
      config: Its config.
      num_classes: The number of classes of the first run.
      evaluator: The evaluator of the other run's objective.

    Raises:
      ConfigError: It has another number of classes, or makes no predictions.
    """
    count = config.model["num_classes"]
    if count != num_classes:
        problem = f"expected a model with the same {num_classes} classes, got one with {count}"
        raise ConfigError("--against", problem)
    evaluators = make_evaluators(config, models.create(**config.model), evaluator)
    if find_predictor(evaluators) is None:
        raise ConfigError("--against", f"the evaluators of {workdir} make no predictions")


def stored_classes(workdir: epath.Path) -> tuple[str, ...]:
    """Return the class names of a run without restoring it; empty if they cannot be read."""
    for step in reversed(seals.sealed_steps(workdir / "checkpoints")):
        with contextlib.suppress(CheckpointError):
            return read_class_names(workdir, step)
    return ()


def check_classes(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """Check that two models have the same classes, in the same order.

    Raises:
      ConfigError: They do not.
    """
    if len(first) != len(second):
        problem = f"expected a model with the same {len(first)} classes, got one with {len(second)}"
        raise ConfigError("--against", problem)
    if not same(first, second):
        k = next(k for k in range(len(first)) if not same(first[k : k + 1], second[k : k + 1]))
        problem = f"expected the same classes, got '{second[k]}' for class {k}, '{first[k]}' here"
        raise ConfigError("--against", problem)


def compare(
    first: Predictions, second: Predictions, *, other: str, step: int = 0, weights: str = ""
) -> Document:
    """Return how two models differ on the images that both could read, as plain JSON.

    A difference is that of the first model minus the second.

    Args:
      first: The predictions of the first model.
      second: Those of the second model for the same source.
      other: The run folder of the second model.
      step: The step of its checkpoint.
      weights: Which of its weights were used: `ema`, `raw`, or empty if it has one set.

    Raises:
      DataError: There is no image that both could read.
    """
    _, rows, other_rows = np.intersect1d(first.indices, second.indices, return_indices=True)
    if not len(rows):
        raise DataError(f"{first.title}: {other} and this run could read none of the same images")
    one, two = score(first).rows(rows), score(second).rows(other_rows)
    counts = {
        "both": int((one.correct & two.correct).sum()),
        "first_only": int((one.correct & ~two.correct).sum()),
        "second_only": int((~one.correct & two.correct).sum()),
        "neither": int((~one.correct & ~two.correct).sum()),
    }
    p = mcnemar(counts["first_only"], counts["second_only"])
    num_classes = len(first.class_names)
    apart = np.flatnonzero(one.correct != two.correct)[:LISTED]
    return {
        "other": other,
        "step": step,
        "weights": weights,
        "set": first.name,
        "count": len(rows),
        "first": metrics(one, num_classes),
        "second": metrics(two, num_classes),
        **counts,
        "mcnemar": {"p": p, "method": "mid-p"},
        "difference": paired_bootstrap(one.correct, two.correct)._asdict(),
        "differing": [_describe(first, i, rows, one, two) for i in apart.tolist()],
    }


def _describe(first: Predictions, i: int, rows: np.ndarray, one: Any, two: Any) -> Document:
    """Return an image on which one of the models is right."""
    return {
        "index": int(first.indices[rows[i]]),
        "id": first.ids[rows[i]],
        "label": int(first.labels[rows[i]]),
        "first": int(one.predicted[i]),
        "second": int(two.predicted[i]),
    }
