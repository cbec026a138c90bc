"""The curves of a run: its metrics over the steps, beside those of another run."""

from collections.abc import Mapping

from vit_jax.reporting.charts.lines import Line, line_chart
from vit_jax.reporting.content import Content
from vit_jax.reporting.markup import Markup, tag
from vit_jax.reporting.numbers import decimal
from vit_jax.reporting.run_folder import RunFolder
from vit_jax.reporting.sections.metrics import format_of, title_of

# Metrics of training steps that are shown, with their titles.
_TRAINING = {
    "loss": "Training loss",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "images_per_second": "Images per second",
}

# What an evaluation says about its images rather than about the model.
_COUNTS = ("count", "skipped")


def curves(content: Content) -> Markup:
    """Return a chart for each metric of evaluations, then for each of the training steps.

    A metric with one value is no curve; it is among the figures of the summary.
    """
    folders = [content.folder, *([content.other] if content.other else [])]
    found = [
        (f"{title_of(metric)} of evaluations", lines, format_of(metric))
        for metric, lines in _evaluations(folders).items()
    ]
    for key, title in _TRAINING.items():
        lines = [
            folder.curves[key]._replace(name=folder.name, tone=i, dashed=i > 0)
            for i, folder in enumerate(folders)
            if key in folder.curves
        ]
        found.append((title, lines, decimal))
    charts = [line_chart(*chart) for chart in found if any(len(c.steps) > 1 for c in chart[1])]
    return tag("div", *charts, class_="charts")


def _evaluations(folders: list[RunFolder]) -> Mapping[str, list[Line]]:
    """Return the lines of each metric that an evaluation writes as `SET/METRIC`."""
    found: dict[str, list[Line]] = {}
    for i, folder in enumerate(folders):
        for key, line in folder.curves.items():
            name, slash, metric = key.partition("/")
            if slash and metric not in _COUNTS:
                lines = found.setdefault(metric, [])
                name = f"{name} ({folder.name})" if len(folders) > 1 else name
                lines.append(line._replace(name=name, tone=len(lines) % 7, dashed=i > 0))
    return found
