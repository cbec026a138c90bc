"""The classes of a set: recall with intervals, the confusion matrix, the most confused pairs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.reporting.charts.axes import figure
from vit_jax.reporting.charts.bars import Bar, bar_chart
from vit_jax.reporting.markup import EMPTY, Markup, join, tag
from vit_jax.reporting.numbers import count, interval, percent
from vit_jax.reporting.tables import folded, scrolling, table

# More classes than this are not all drawn; the tables have all of them.
MAX_CLASSES = 40

# The number of shades of the confusion matrix.
_SHADES = 6

# Images by (true class, predicted class).
Counts = Mapping[tuple[int, int], int]


def recall_bars(analysis: Mapping[str, Any]) -> Markup:
    """Return bars of the recall of each class, or of the worst and the best classes."""
    classes = analysis["classes"]
    ranked = sorted((c for c in classes if c["recall"] is not None), key=lambda c: c["recall"])
    groups = {"Recall by class, the worst first": ranked}
    if len(ranked) > MAX_CLASSES:
        half = MAX_CLASSES // 2
        groups = {
            f"Recall of the {half} worst classes": ranked[:half],
            f"Recall of the {half} best classes": ranked[: -half - 1 : -1],
        }
    note = "The share of the images of a class that get its label. Whiskers: 95 % intervals."
    charts = [
        figure(title, bar_chart(title, [_bar(c) for c in chosen], percent), caption=note)
        for title, chosen in groups.items()
    ]
    behind = folded("Table of all classes", _table(classes))
    return join([tag("div", *charts, class_="charts"), behind])


def _bar(entry: Mapping[str, Any]) -> Bar:
    details = f"{count(entry['count'])} images, precision {percent(entry['precision'])}"
    return Bar(entry["name"], entry["recall"], entry["low"], entry["high"], details)


def _table(classes: Sequence[Mapping[str, Any]]) -> Markup:
    columns = ["class", "images", "predicted", "precision", "recall", "95 % interval", "F1"]
    rows = [
        [
            c["name"],
            *(count(c[key]) for key in ("count", "predicted")),
            *(percent(c[key]) for key in ("precision", "recall")),
            interval(c["low"], c["high"], percent),
            percent(c["f1"]),
        ]
        for c in classes
    ]
    return table("Classes", columns, rows, tall=True)


def confusion(analysis: Mapping[str, Any]) -> Markup:
    """Return the confusion matrix, of the most confused classes if they are many."""
    names = analysis["class_names"]
    counts = {(label, predicted): n for label, predicted, n in analysis["confusion"]}
    shown = classes_to_show(counts, len(names))
    head = [tag("th", tag("span", names[i]), scope="col") for i in shown]
    rows = [_row(analysis, counts, i, shown) for i in shown]
    text = "Rows: the true class. Columns: the predicted class. Cells: images."
    if len(shown) < len(names):
        text += f" The {len(shown)} of {len(names):,} classes with the most mistakes."
    matrix = tag(
        "table",
        tag("caption", "Confusion matrix"),
        tag("thead", tag("tr", tag("td"), *head)),
        tag("tbody", *rows),
        class_="matrix",
    )
    blocks = tag("div", scrolling(matrix, "Confusion matrix"), _pairs(analysis), class_="row")
    return join([tag("p", text, class_="note"), blocks])


def classes_to_show(counts: Counts, number: int) -> list[int]:
    """Return the classes to show in increasing order: those in most mistakes if they are many.

    Args:
      counts: The confusion matrix.
      number: The number of classes.
    """
    if number <= MAX_CLASSES:
        return list(range(number))
    mistakes = dict.fromkeys(range(number), 0)
    for (label, predicted), n in counts.items():
        if label != predicted:
            mistakes[label] += n
            mistakes[predicted] += n
    ranked = sorted(mistakes, key=lambda i: (-mistakes[i], i))
    return sorted(ranked[:MAX_CLASSES])


def _row(analysis: Mapping[str, Any], counts: Counts, label: int, shown: Sequence[int]) -> Markup:
    """Return the cells of a class; their shade grows with the square root of the share."""
    names, total = analysis["class_names"], analysis["classes"][label]["count"]
    cells = []
    for predicted in shown:
        n = counts.get((label, predicted), 0)
        if not n:
            cells.append(tag("td"))
            continue
        kind = "right" if predicted == label else "wrong"
        shade = math.ceil(_SHADES * math.sqrt(n / total))
        images = f"{count(n)} of {count(total)} images of {names[label]} ({percent(n / total)})"
        tip = f"{images} predicted as {names[predicted]}"
        cells.append(tag("td", count(n), class_=f"{kind} share-{shade}", data_tip=tip))
    return tag("tr", tag("th", names[label], scope="row"), *cells)


def _pairs(analysis: Mapping[str, Any]) -> Markup:
    pairs, names = analysis["confused_pairs"], analysis["class_names"]
    if not pairs:
        return EMPTY
    rows = [
        [names[p["label"]], names[p["predicted"]], count(p["count"]), percent(p["share"])]
        for p in pairs
    ]
    columns = ["true class", "predicted as", "images", "share of the class"]
    return table("Most confused pairs", columns, rows, text=["predicted as"], tall=True)
