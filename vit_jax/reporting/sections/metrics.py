"""The metrics of sets and of runs, each with its 95 % interval."""

from collections.abc import Mapping
from typing import Any

from vit_jax.reporting.markup import EMPTY, Markup, join, tag
from vit_jax.reporting.numbers import Format, count, decimal, interval, percent
from vit_jax.reporting.tables import table

# The name of each metric, and how its values read. Others are shown by their own names.
METRICS: dict[str, tuple[str, Format]] = {
    "top1": ("Top-1 accuracy", percent),
    "top5": ("Top-5 accuracy", percent),
    "balanced_accuracy": ("Balanced accuracy", percent),
    "loss": ("Loss", decimal),
    "ece": ("Expected calibration error", percent),
}

# How the interval of a metric is computed.
METHODS = {"wilson": "Wilson's interval", "bca": "BCa bootstrap"}


def title_of(metric: str) -> str:
    """Return the name of a metric for readers."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def format_of(metric: str) -> Format:
    """Return how values of a metric read."""
    return METRICS[metric][1] if metric in METRICS else decimal


def headline(analysis: Mapping[str, Any]) -> Markup:
    """Return the metrics of a set as large figures with their intervals."""
    entries = [
        tag(
            "div",
            tag("dt", title_of(metric)),
            tag("dd", format_of(metric)(figure["value"])),
            _interval(metric, figure),
        )
        for metric, figure in analysis["metrics"].items()
    ]
    methods = [f["method"] for f in analysis["metrics"].values() if f["low"] is not None]
    names = [name for key, name in METHODS.items() if key in methods]
    text = (
        f"95 % intervals over the images ({', '.join(names)}). They do not cover how training with "
        "another seed varies."
    )
    note = tag("p", text, class_="note") if names else EMPTY
    return join([tag("dl", *entries, class_="figures"), note])


def _interval(metric: str, figure: Mapping[str, Any]) -> Markup:
    text = interval(figure.get("low"), figure.get("high"), format_of(metric))
    return tag("dd", text) if text else EMPTY


def side_by_side(caption: str, columns: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Return a table of metrics with a column for each set or run.

    Args:
      caption: What the table shows.
      columns: The metrics by the name of the column; a metric is `{"value", "low", "high"}`.
    """
    names = list(dict.fromkeys(metric for metrics in columns.values() for metric in metrics))
    rows = [
        [title_of(metric), *(_cell(metric, found.get(metric, {})) for found in columns.values())]
        for metric in names
    ]
    return table(caption, ["metric", *columns], rows)


def plain_results(results: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Return a table of the results of evaluators without an analysis, by label."""
    names = list(dict.fromkeys(key for result in results.values() for key in result))
    forms = {"count": count, "skipped": count}
    rows = [
        [title_of(name), *(forms.get(name, format_of(name))(r.get(name)) for r in results.values())]
        for name in names
    ]
    return table("Results", ["metric", *results], rows)


def _cell(metric: str, figure: Mapping[str, Any]) -> Markup:
    form = format_of(metric)
    value = form(figure.get("value"))
    text = interval(figure.get("low"), figure.get("high"), form)
    return join([value, tag("br"), tag("span", text, class_="unit")]) if text else join([value])
