"""What the folder of a run says about it: settings with their origins, curves, time."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vit_jax.config import stored
from vit_jax.config.schema import flatten
from vit_jax.console.documents import read_json
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.reporting.charts.lines import Line


class RunFolder(NamedTuple):
    """The documents in the folder of a run; what is missing is empty."""

    name: str
    settings: Mapping[str, Any]  # by path
    origins: Mapping[str, str]
    curves: Mapping[str, Line]  # by the name of the metric
    results: Mapping[str, Any]
    goodput: Mapping[str, Any]


def read_run_folder(directory: epath.Path) -> RunFolder:
    """Read the folder of a run, or of converted weights.

    Args:
      directory: The folder.
    """
    return RunFolder(
        name=directory.resolve().name,
        settings=flatten(_read(directory / stored.CONFIG)),
        origins=_read(directory / stored.ORIGINS),
        curves=_curves(read_metrics(directory / "metrics.jsonl")),
        results=(results := _read(directory / "results.json")),
        goodput=results.get("goodput") or _read(directory / "goodput.json"),
    )


def _read(path: epath.Path) -> dict[str, Any]:
    """Return a JSON object, or an empty one if there is none that can be read."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _curves(rows: list[dict[str, Any]]) -> dict[str, Line]:
    """Return each metric over the steps, without values that are not finite numbers."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float) and np.isfinite(value) and key != "step":
                points.setdefault(key, {})[row["step"]] = float(value)
    return {
        key: Line(key, np.array(steps), np.array([found[step] for step in steps]))
        for key, found in points.items()
        for steps in [sorted(found)]
    }
