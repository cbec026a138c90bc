"""Reliability diagrams (Guo et al. 2017, figure 1): accuracy against confidence, bin by bin."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.reporting.charts.axes import Scale, axes, figure, key, mark, svg
from vit_jax.reporting.markup import EMPTY, Markup, tag
from vit_jax.reporting.numbers import count, percent, short_percent
from vit_jax.reporting.tables import folded, table

_LEFT = 46
_SIDE = 280
_RADIUS = 8.0  # of the mark of a bin with all images

_CAPTION = (
    "Accuracy of the images in each bin of confidence. On the dotted diagonal the two agree; below "
    "it the model is too sure. Grey bars: the share of the images in each bin."
)


def reliability_chart(curves: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    """Return the diagram of one or two curves; the bars show where the images of the first are.

    Args:
      curves: For each curve its name, and `edges` (bins + 1,), `counts`, `confidence` and
        `accuracy` (bins,); an empty bin has no confidence and no accuracy.
    """
    x = Scale(0.0, 1.0, _LEFT, _LEFT + _SIDE)
    y = Scale(0.0, 1.0, 14 + _SIDE, 14)
    ideal = tag("line", class_="ideal", x1=x(0), y1=y(0), x2=x(1), y2=y(1))
    frame = axes(x, y, short_percent, short_percent, x_title="confidence")
    parts = [_histogram(curves[0][1], x, y), frame, ideal]
    for tone, (name, curve) in enumerate(curves):
        parts.append(tag("g", *_curve(name, curve, tone, x, y), class_=f"tone-{tone}"))
    entries = [(name, tone, tone > 0) for tone, (name, _) in enumerate(curves)]
    keys = key(entries) if len(entries) > 1 else EMPTY
    behind = folded("Table", *(_table(name, curve) for name, curve in curves))
    label = f"Reliability diagram: {', '.join(name for name, _ in curves)}"
    chart = svg(label, _SIDE + 54, "x", *parts, width=_LEFT + _SIDE + 24)
    return figure("Accuracy by confidence", chart, keys, behind, caption=_CAPTION)


def _histogram(curve: Mapping[str, Any], x: Scale, y: Scale) -> Markup:
    """Return a bar for each bin, as high as its share of the images."""
    total = sum(curve["counts"]) or 1
    bars = []
    for low, high, n in zip(curve["edges"][:-1], curve["edges"][1:], curve["counts"], strict=True):
        top, width = y(n / total), x(high) - x(low) - 2
        sides = {"x": x(low) + 1, "y": top, "width": width, "height": y(0) - top}
        bars.append(tag("rect", class_="count", **sides))
    return tag("g", *bars, aria_hidden="true")


def _curve(name: str, curve: Mapping[str, Any], tone: int, x: Scale, y: Scale) -> list[Markup]:
    """Return the line through the bins that hold images, and a mark for each."""
    columns = (curve[key] for key in ("counts", "confidence", "accuracy"))
    bins = [entry for entry in zip(*columns, strict=True) if entry[0]]
    total = sum(curve["counts"])
    path = " ".join(f"{x(confidence):.1f},{y(accuracy):.1f}" for _, confidence, accuracy in bins)
    parts = [tag("polyline", class_="trace line dashed" if tone else "trace line", points=path)]
    for n, confidence, accuracy in bins:
        means = f"confidence {percent(confidence)}, accuracy {percent(accuracy)}"
        at = x(confidence), y(accuracy)
        radius = max(2.5, _RADIUS * (n / total) ** 0.5)
        parts.append(mark(f"{name}, {count(n)} images: {means}", *at, _dot(*at, radius, tone)))
    return parts


def _dot(x: float, y: float, radius: float, tone: int) -> Markup:
    """Return a circle for the first curve and a square for the second one."""
    if tone == 0:
        return tag("circle", class_="shape fill", cx=x, cy=y, r=radius)
    side = 1.8 * radius
    return tag("rect", class_="shape fill", x=x - side / 2, y=y - side / 2, width=side, height=side)


def _table(name: str, curve: Mapping[str, Any]) -> Markup:
    edges, keys = curve["edges"], ("counts", "confidence", "accuracy")
    bins = zip(edges[:-1], edges[1:], *(curve[key] for key in keys), strict=True)
    rows = [
        [f"{low:.3f} to {high:.3f}", count(n), percent(confidence), percent(accuracy)]
        for low, high, n, confidence, accuracy in bins
        if n
    ]
    return table(name, ["bin", "images", "mean confidence", "accuracy"], rows)
