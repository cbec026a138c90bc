"""Where a result comes from: settings with their origins, data, hardware and time."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax.config.schema import flatten
from vit_jax.reporting.charts.axes import figure
from vit_jax.reporting.charts.bars import Bar, bar_chart
from vit_jax.reporting.content import Content
from vit_jax.reporting.markup import EMPTY, Markup, join, tag
from vit_jax.reporting.numbers import Format, count, percent, seconds
from vit_jax.reporting.run_folder import RunFolder
from vit_jax.reporting.tables import folded, table

# Origins of the settings that nobody set: the schema and the name of the model.
_IMPLIED = ("default", "preset")

# What `results.json` says about the run as a whole.
_RESULTS: dict[str, tuple[str, Format]] = {
    "parameters": ("parameters", count),
    "images_per_second": ("images per second of training", count),
    "train_seconds": ("training", seconds),
    "skipped": ("skipped steps", count),
}


def settings(folder: RunFolder) -> Markup:
    """Return the settings with their origins: those that someone set first, all on request."""
    chosen = {
        path: value
        for path, value in folder.settings.items()
        if not folder.origins.get(path, "default").startswith(_IMPLIED)
    }
    parts = [_settings("Settings that someone set", folder, chosen)] if chosen else []
    everything = _settings("All settings", folder, folder.settings)
    return join([*parts, folded(f"All {len(folder.settings)} settings", everything)])


def changed_settings(content: Content) -> Markup:
    """Return the settings with which the run was evaluated, where they are not its own."""
    if not content.changed:
        return EMPTY
    own = content.folder.settings
    rows = [[path, _value(own.get(path)), _value(new)] for path, new in content.changed.items()]
    caption = "Settings of this evaluation that are not those of the run"
    names = ["setting", "of the run", "here"]
    return table(caption, names, rows, text=names[1:], tall=True)


def _settings(caption: str, folder: RunFolder, values: Mapping[str, Any]) -> Markup:
    rows = [[path, _value(value), folder.origins.get(path, "")] for path, value in values.items()]
    return table(caption, ["setting", "value", "set by"], rows, text=["value", "set by"], tall=True)


def differing_settings(first: RunFolder, second: RunFolder) -> Markup:
    """Return the settings in which two runs differ."""
    paths = dict.fromkeys([*first.settings, *second.settings])
    rows = [
        [path, *(_value(folder.settings.get(path)) for folder in (first, second))]
        for path in paths
        if first.settings.get(path) != second.settings.get(path)
    ]
    if not rows:
        return tag("p", "Both runs have the same settings.")
    names = ["setting", first.name, f"{second.name} (other)"]
    return table("Settings that differ", names, rows, text=names[1:], tall=True)


def data(analyses: Iterable[Mapping[str, Any]]) -> Markup:
    """Return the fingerprint of the images of each set."""
    rows = [
        [analysis["set"], key, _value(value)]
        for analysis in {a["set"]: a for a in analyses}.values()
        for key, value in flatten(analysis.get("fingerprint") or {}).items()
    ]
    return table("Fingerprint of the data", ["set", "key", "value"], rows, text=["key", "value"])


def machine(content: Content) -> Markup:
    """Return what computed the figures of the page, and what the results say about the run."""
    results = content.folder.results
    known = {title: form(results[k]) for k, (title, form) in _RESULTS.items() if k in results}
    figures = {"Machine of these figures": content.machine, "Training": known}
    return join(
        table(caption, ["fact", "value"], [*map(list, facts.items())], text=["value"])
        for caption, facts in figures.items()
        if facts
    )


def time(folder: RunFolder) -> Markup:
    """Return where the time of the run went, and its goodput."""
    parts = folder.goodput.get("seconds")
    if not parts:
        return EMPTY
    total = sum(parts.values()) or 1.0
    bars = [
        Bar(part, value, details=f"{percent(value / total)} of the time")
        for part, value in sorted(parts.items(), key=lambda item: -item[1])
    ]
    attempts = folder.goodput.get("attempts", 1)
    caption = (
        f"Goodput {percent(folder.goodput.get('goodput'))} of {seconds(total)}: the share of the "
        f"time in training steps. Attempts: {attempts}."
    )
    chart = bar_chart("Time of the run", bars, seconds, longest=max(parts.values()))
    rows = [[bar.name, seconds(bar.value), percent((bar.value or 0.0) / total)] for bar in bars]
    behind = folded("Table", table("Time of the run", ["part", "time", "share"], rows))
    return figure("Time of the run", chart, behind, caption=caption)


def _value(value: Any) -> str:
    """Return a value as one line; text as it is."""
    return value if isinstance(value, str) else json.dumps(value)
