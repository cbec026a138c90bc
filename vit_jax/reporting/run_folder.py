"""What the documents in the folder of a run say: settings with their origins, results, curves."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vit_jax.config import stored
from vit_jax.console.documents import read_json
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.console.workdir import GOODPUT, METRICS, RESULTS
from vit_jax.errors import InputMissingError
from vit_jax.reporting.charts.lines import Line


class Documents(NamedTuple):
    """The documents of a run; what is missing is empty."""

    settings: Mapping[str, Any]  # by path
    results: Mapping[str, Any]
    goodput: Mapping[str, Any]  # that of the results, or that so far; `written` is its last time
    problems: tuple[str, ...]  # one line for each document that cannot be read


class RunFolder(NamedTuple):
    """What a report shows of the folder of a run; what is missing is empty."""

    name: str
    settings: Mapping[str, Any]  # by path
    origins: Mapping[str, str]
    curves: Mapping[str, Line]  # by the name of the metric
    results: Mapping[str, Any]
    goodput: Mapping[str, Any]


def read_run_folder(directory: epath.Path) -> RunFolder:
    """Read the folder of a run, or of converted weights, with its curves.

    Args:
      directory: The folder.
    """
    found = read_documents(directory)
    return RunFolder(
        name=directory.resolve().name,
        settings=found.settings,
        origins=read_object(directory / stored.ORIGINS)[0],
        curves=_curves(read_metrics(directory / METRICS)),
        results=found.results,
        goodput=found.goodput,
    )


def read_documents(directory: epath.Path) -> Documents:
    """Read the settings, the results and the goodput of a run.

    Args:
      directory: The folder of the run.
    """
    settings, unset = _settings(directory)
    results, unread = read_object(directory / RESULTS)
    goodput, _ = read_object(directory / GOODPUT)
    if isinstance(summary := results.get("goodput"), dict):
        goodput |= summary  # the results are those of one time
    return Documents(settings, results, goodput, tuple(filter(None, [unset, unread])))


def _settings(directory: epath.Path) -> tuple[dict[str, Any], str]:
    """Return the settings of a run by path, and why there are none."""
    try:
        layer = stored.read_layer(directory)
    except (InputMissingError, OSError, RecursionError) as error:
        return {}, f"{stored.CONFIG}: {_reason(error, directory / stored.CONFIG)}"
    return {path: setting.value for path, setting in layer.items()}, ""


def read_object(path: epath.Path) -> tuple[dict[str, Any], str]:
    """Return a JSON object, empty if there is none, and what is wrong with its file.

    Args:
      path: The file.
    """
    if not path.exists():
        return {}, ""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        return {}, f"{path.name}: {_reason(error, path)}"
    if not isinstance(content, dict):
        return {}, f"{path.name}: expected an object, got {content!r:.40}"
    return content, ""


def _reason(error: Exception, path: epath.Path) -> str:
    """Return an error in one line, without the path that it may begin with."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).removeprefix(f"{path}: ")


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
