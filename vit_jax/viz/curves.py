"""Training curves: the metrics of a run over its steps."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from vit_jax.console.metrics_writer import read_metrics
from vit_jax.console.workdir import open_path
from vit_jax.errors import InputMissingError
from vit_jax.viz.drawing import BLUE, INK, ORANGE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

Curve = tuple[np.ndarray, np.ndarray]  # steps (n,) and values (n,)

# Evaluation set, line style and colour. A run with an exponential moving average of its weights
# also evaluates the weights without averaging, as `val_raw`.
ACCURACIES = (("val_raw", "o:", INK), ("val", "o-", BLUE), ("test", "D", ORANGE))


def training_curves(workdir: str | pathlib.Path) -> "matplotlib.figure.Figure":
    """Draw loss, learning rate and top-1 accuracy over the steps of a run, even while it trains.

    Args:
      workdir: The work directory of the run: a local path or a `gs://` URL.

    Raises:
      InputMissingError: `workdir` has no metrics of a training step.
    """
    curves = _read_curves(open_path(str(workdir), "workdir") / "metrics.jsonl")
    figure = new_figure(10.5, 2.9)
    loss, rate, top1 = figure.subplots(1, 3)
    steps, _ = curves["step"]
    last_step = int(steps[-1])
    panels = {"training loss": loss, "learning rate": rate, "top-1 accuracy": top1}
    for title, axes in panels.items():
        _style_axes(axes, title, last_step)
    _draw_loss(loss, curves["loss"])
    _draw_learning_rate(rate, curves["learning_rate"])
    _draw_accuracy(top1, curves)
    return figure


def _read_curves(path: epath.Path) -> dict[str, Curve]:
    """Return the curve of each metric, without non-finite values.

    Raises:
      InputMissingError: No loss has been logged.
    """
    series: dict[str, dict[int, float]] = {}
    for row in read_metrics(path):
        for key, value in row.items():
            if value is not None:  # a non-finite value is stored as null
                series.setdefault(key, {})[row["step"]] = value
    if "loss" not in series:
        raise InputMissingError(
            f"{path}: no training step logged; expected the work directory of a run"
        )
    return {
        key: (np.array(list(points)), np.array(list(points.values())))
        for key, points in series.items()
    }


def _style_axes(axes: Any, title: str, last_step: int) -> None:
    """Set the title, the grid lines and the step axis."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel("step", color=INK)
    axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10], integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1.03 * last_step)


def _draw_loss(axes: Any, curve: Curve) -> None:
    steps, values = curve
    axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _smooth(values), color=BLUE, linewidth=1.8)
    axes.set_ylim(0, 1.1 * np.percentile(values, 99.5) + 1e-6)


def _draw_learning_rate(axes: Any, curve: Curve) -> None:
    steps, values = curve
    axes.plot(steps, values, color=INK, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=5)
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_accuracy(axes: Any, curves: Mapping[str, Curve]) -> None:
    """Draw the accuracy of each evaluation set, or a note if there are no evaluations."""
    axes.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g}%")
    lowest = 1.0
    for split, style, color in ACCURACIES:
        if f"{split}/top1" in curves:
            steps, values = curves[f"{split}/top1"]
            label = f"{split} {values[-1]:.1%}"
            axes.plot(steps, values, style, color=color, label=label, zorder=3)
            lowest = min(lowest, *values)
    if axes.lines:
        axes.set_ylim(max(0.0, min(1.5 * lowest - 0.5, 0.9)), 1.005)
        axes.locator_params(axis="y", nbins=5)
        axes.legend(loc="lower right", frameon=False, labelcolor=INK)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color=INK)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the centred moving average over a window of 2 % of the values."""
    reach = len(values) // 100
    sums = np.cumsum([0.0, *values])
    centers = np.arange(len(values))
    start = np.maximum(centers - reach, 0)
    end = np.minimum(centers + reach + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)
