"""The analysis of predictions: metrics with intervals, calibration, classes, confusion, images."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.scores import Scores, score
from vit_jax.evaluation.statistics import accuracy, calibration, confusion
from vit_jax.evaluation.statistics.intervals import Interval, mean_interval, wilson

LISTED = 20  # the pairs of classes, and the images, that a list has at most

Document = dict[str, Any]  # plain JSON; NaN where a figure is undefined, which becomes null


def analyse(
    predictions: Predictions,
    *,
    weights: str = "",
    step: int = 0,
    fingerprint: Mapping[str, Any] | None = None,
    validation: Predictions | None = None,
) -> Document:
    """Return the analysis of the predictions for a set, as plain JSON.

    Images whose outputs are not finite are wrong in every metric. They have no predicted class and
    no confidence: they are not in the confusion matrix and the reliability curve.

    Args:
      predictions: The predictions.
      weights: Which weights of the run made them: `ema`, `raw`, or empty if it has one set.
      step: The step of the checkpoint.
      fingerprint: The fingerprint of the source; see `Source.fingerprint`.
      validation: Predictions of the same weights for other images, to which the temperature is
        fitted.
    """
    scores = score(predictions)
    names = predictions.class_names
    matrix = _confusion_matrix(scores, len(names))
    cells = matrix[:-1, :-1]
    entries = np.stack([*np.nonzero(cells), cells[np.nonzero(cells)]], axis=1)
    return {
        "set": predictions.name,
        "title": predictions.title,
        "weights": weights,
        "step": step,
        "count": len(predictions.labels),
        "skipped": predictions.skipped,
        "not_finite": int((~scores.finite).sum()),
        "fingerprint": {k: v for k, v in (fingerprint or {}).items() if k != "classes"},
        "class_names": list(names),
        "metrics": metrics(scores, len(names)),
        "reliability": _reliability(scores),
        "temperature": _temperature(predictions, validation) if validation else None,
        "classes": _classes(matrix, names),
        "confusion": entries.tolist(),
        "confused_pairs": _confused_pairs(cells, matrix.sum(axis=1)),
        "mistakes": _mistakes(predictions, scores),
        "uncertain": _uncertain(predictions, scores),
    }


def metrics(scores: Scores, num_classes: int) -> Document:
    """Return the metrics of some images, each with its 95 % interval and the method of it.

    Args:
      scores: The scores of the images.
      num_classes: The number of classes.
    """
    count = len(scores.labels)
    top1, top5 = int(scores.correct.sum()), int(scores.hits.any(axis=1).sum())
    matrix = _confusion_matrix(scores, num_classes)
    balanced = accuracy.balanced_accuracy(matrix)
    return {
        "top1": _metric(top1 / count, wilson(top1, count), "wilson"),
        "top5": _metric(top5 / count, wilson(top5, count), "wilson"),
        "balanced_accuracy": _metric(balanced, accuracy.balanced_accuracy_interval(matrix), "bca"),
        **_calibrated(scores),
    }


def _calibrated(scores: Scores) -> Document:
    """Return the metrics that a temperature changes."""
    finite = scores.rows(scores.finite)
    curve = calibration.reliability(finite.confidence, finite.correct)
    gap = calibration.expected_calibration_error(curve)
    interval = calibration.calibration_error_interval(finite.confidence, finite.correct)
    return {
        "loss": _metric(float(scores.loss.mean()), mean_interval(scores.loss), "bca"),
        "ece": _metric(gap, interval, "bca"),
    }


def _metric(value: float, interval: Interval, method: str) -> Document:
    return {"value": value, "low": interval.low, "high": interval.high, "method": method}


def _reliability(scores: Scores) -> Document:
    finite = scores.rows(scores.finite)
    curve = calibration.reliability(finite.confidence, finite.correct)
    return {key: column.tolist() for key, column in curve._asdict().items()}


def _temperature(predictions: Predictions, validation: Predictions) -> Document | None:
    """Return the metrics at the temperature of other images; None if none is best for these."""
    finite = np.isfinite(validation.logits).all(axis=1)
    labels = validation.labels[finite]
    value = calibration.fit_temperature(validation.logits[finite], labels, validation.loss)
    if not math.isfinite(value):
        return None
    scores = score(predictions, value)
    return {
        "value": value,
        "fitted_on": validation.name,
        "count": len(labels),
        **_calibrated(scores),
        "reliability": _reliability(scores),
    }


def _confusion_matrix(scores: Scores, num_classes: int) -> Int[np.ndarray, "k k"]:
    """Return images by label and predicted class; the last class is that of outputs without one."""
    predicted = np.where(scores.finite, scores.predicted, num_classes)
    return confusion.confusion_matrix(scores.labels, predicted, num_classes + 1)


def _classes(matrix: Int[np.ndarray, "k k"], names: tuple[str, ...]) -> list[Document]:
    """Return the figures of each class; low and high are Wilson's interval of the recall."""
    found = confusion.per_class(matrix)
    rows = []
    for k, name in enumerate(names):
        interval = wilson(int(matrix[k, k]), int(found.support[k]))
        rows.append(
            {
                "name": name,
                "count": int(found.support[k]),
                "predicted": int(found.predicted[k]),
                "precision": float(found.precision[k]),
                "recall": float(found.recall[k]),
                "f1": float(found.f1[k]),
                **interval._asdict(),
            }
        )
    return rows


def _confused_pairs(cells: Int[np.ndarray, "k k"], counts: Int[np.ndarray, " m"]) -> list[Document]:
    """Return the pairs of classes with the most wrong predictions; counts are images by label."""
    return [
        {
            "label": pair.label,
            "predicted": pair.predicted,
            "count": pair.images,
            "share": pair.images / int(counts[pair.label]),
        }
        for pair in confusion.most_confused(cells, LISTED)
    ]


def _mistakes(predictions: Predictions, scores: Scores) -> list[Document]:
    """Return the wrong images, those with the most probable prediction first."""
    wrong = scores.finite & ~scores.correct
    return _listed(predictions, scores, np.where(wrong, -scores.confidence, np.nan))


def _uncertain(predictions: Predictions, scores: Scores) -> list[Document]:
    """Return the images whose two most probable classes are nearest."""
    return _listed(predictions, scores, np.where(scores.finite, scores.margin, np.nan))


def _listed(
    predictions: Predictions, scores: Scores, order: Float[np.ndarray, " n"]
) -> list[Document]:
    """Return the images in increasing order; those whose order is NaN are left out."""
    rows = [int(i) for i in np.argsort(order, kind="stable")[:LISTED] if order[i] == order[i]]
    return [
        {
            "index": int(predictions.indices[i]),
            "id": predictions.ids[i],
            "label": int(scores.labels[i]),
            "predicted": int(scores.predicted[i]),
            "probability": float(scores.confidence[i]),
            "label_probability": float(scores.label_probability[i]),
        }
        for i in rows
    ]
