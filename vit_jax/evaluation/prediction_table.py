"""The table of predictions: a row for each image of each set, for `console.tables`."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.scores import score

WIDTH = 5  # the most probable classes of each image


def join(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the columns of the table of several sets, one after the other.

    Args:
      tables: The columns of each set.
    """
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def columns(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return the columns of the table of one set, by name.

    `top5` and `top5_probability` are (n, 5); with fewer classes, -1 and NaN fill them.

    Args:
      predictions: The predictions for the set.
    """
    scores, names = score(predictions), np.array(predictions.class_names)
    return {
        "set": np.full(len(scores.labels), predictions.name),
        "id": np.array(predictions.ids),
        "index": predictions.indices.astype(np.int64),
        "label": predictions.labels.astype(np.int64),
        "label_name": names[predictions.labels],
        "predicted": np.where(scores.finite, scores.predicted, -1).astype(np.int64),
        "predicted_name": np.where(scores.finite, names[scores.predicted], ""),
        "correct": scores.correct,
        "loss": scores.loss,
        "top5": _padded(scores.top.astype(np.int64), -1),
        "top5_probability": _padded(scores.probabilities, np.nan),
    }


def _padded(rows: Shaped[np.ndarray, "n t"], value: int | float) -> Shaped[np.ndarray, "n 5"]:
    missing = WIDTH - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, missing)), constant_values=value)
