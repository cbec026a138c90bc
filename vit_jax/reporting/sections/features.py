"""The features of a set in the plane of their first two principal components."""

from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.reporting.charts.axes import figure
from vit_jax.reporting.charts.scatter import MAX_SIGNS, Point, centres, key_button, scatter_chart
from vit_jax.reporting.content import Projection
from vit_jax.reporting.markup import Markup, tag
from vit_jax.reporting.numbers import count, decimal, percent
from vit_jax.reporting.tables import folded, table

_TITLE = "Principal components of the pooled features"


def features(id_: str, projection: Projection, names: Sequence[str]) -> Markup:
    """Return the scatter plot of a projection, with its key and a table of its classes.

    Args:
      id_: The id of the chart.
      projection: The points.
      names: The names of the classes.
    """
    signs = _signs(projection.labels)
    labels, predicted = projection.labels.tolist(), projection.predicted.tolist()
    points = [
        Point(x, y, signs.get(label), _tip(names, label, other, image))
        for (x, y), label, other, image in zip(
            projection.points.tolist(), labels, predicted, projection.ids, strict=True
        )
    ]
    first, second = (
        f"component {i}: {percent(share)} of the variance"
        for i, share in enumerate(projection.explained_variance_ratio.tolist(), 1)
    )
    chart = scatter_chart(id_, _TITLE, points, (first, second))
    buttons = [tag("li", key_button(id_, number, names[label])) for label, number in signs.items()]
    keys = tag("ul", *buttons, class_="key", aria_label="Classes")
    text = f"{count(len(points))} of {count(projection.total)} images."
    if len(signs) < len(set(labels)):
        text += f" The {len(signs)} largest classes have signs; the others are grey dots."
    text += " Press a class to see it alone."
    return figure(_TITLE, chart, keys, folded("Table", _table(projection, names)), caption=text)


def _signs(labels: np.ndarray) -> Mapping[int, int]:
    """Return the number of the sign of each class that has one: the largest classes, in order."""
    found, counts = np.unique(labels, return_counts=True)
    largest = found[np.argsort(-counts, kind="stable")[:MAX_SIGNS]]
    return {label: number for number, label in enumerate(np.sort(largest).tolist())}


def _tip(names: Sequence[str], label: int, predicted: int, image: str) -> str:
    verdict = [] if label == predicted else [f"predicted as {names[predicted]}"]
    return ", ".join([names[label], *verdict, image])


def _table(projection: Projection, names: Sequence[str]) -> Markup:
    """Return the centre and the spread of each class: what the points show together."""
    rows = []
    for label, (n, means, spreads) in centres(projection.points, projection.labels).items():
        figures = zip(means.tolist(), spreads.tolist(), strict=True)
        cells = [f"{decimal(mean)} ± {decimal(spread)}" for mean, spread in figures]
        rows.append([names[label], count(n), *cells])
    columns = ["class", "images", "component 1", "component 2"]
    return table("Mean and standard deviation of each class", columns, rows, tall=True)
