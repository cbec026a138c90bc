"""Scatter plots whose classes differ in shape and in being filled or hollow, besides colour."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.reporting.charts.axes import Scale, mark, svg, text
from vit_jax.reporting.markup import Markup, tag
from vit_jax.reporting.numbers import Number

WIDTH, HEIGHT = 560, 420
_TONES = 7


def _polygon(corners: int, turn: float = 0.0, inner: float = 1.0, radius: float = 4.4) -> str:
    """Return the path of a regular polygon, or of a star with every other corner further in."""
    points = []
    for i in range(corners):
        angle = 2 * math.pi * (i / corners + turn) - math.pi / 2
        r = radius * (inner if i % 2 else 1.0)
        points.append(f"{r * math.cos(angle):.2f} {r * math.sin(angle):.2f}")
    return f"M{'L'.join(points)}z"


# Around (0, 0): circle, square, triangles up and down, diamond, star, plus, cross, bars.
SHAPES = (
    _polygon(24, radius=3.8),
    _polygon(4, turn=1 / 8, radius=5.0),
    _polygon(3, radius=5.0),
    _polygon(3, turn=1 / 2, radius=5.0),
    _polygon(4, radius=5.0),
    _polygon(10, inner=0.42, radius=5.4),
    "M-1.4-4.6h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2z",
    "M-4.2-2.4l1.8-1.8 2.4 2.4 2.4-2.4 1.8 1.8-2.4 2.4 2.4 2.4-1.8 1.8-2.4-2.4-2.4 2.4-1.8-1.8"
    " 2.4-2.4z",
    "M-5-1.8h10v3.6h-10z",
    "M-1.8-5h3.6v10h-3.6z",
)

# The number of classes with a sign of their own: each shape, filled and hollow.
MAX_SIGNS = 2 * len(SHAPES)


class Point(NamedTuple):
    """An image in the plane; `sign` is None for classes without a sign of their own."""

    x: float
    y: float
    sign: int | None
    tip: str


def scatter_chart(id_: str, label: str, points: Sequence[Point], titles: tuple[str, str]) -> Markup:
    """Return a scatter plot.

    Args:
      id_: The id that the buttons of its key refer to.
      label: What the chart shows, for screen readers.
      points: The points.
      titles: The titles of the two axes.
    """
    x = _scale([point.x for point in points], 16, WIDTH - 16)
    y = _scale([point.y for point in points], HEIGHT - 36, 32)
    marks = [_draw(point, x(point.x), y(point.y)) for point in points]
    frame = tag("rect", class_="axis", x=4, y=20, width=WIDTH - 8, height=HEIGHT - 46)
    names = [
        text(titles[0], WIDTH - 8, HEIGHT - 8, anchor="end"),
        text(titles[1], 4, 12),
    ]
    parts = [frame, *names, *marks]
    return svg(label, HEIGHT, "xy", *parts, width=WIDTH, id=id_, class_="wide")


def sign(number: int | None) -> Markup:
    """Return the sign of a class, around (0, 0)."""
    if number is None:
        return tag("circle", class_="shape fill", r=2.0)
    kind = "shape hollow" if number >= len(SHAPES) else "shape fill"
    return tag("path", class_=kind, d=SHAPES[number % len(SHAPES)])


def tone(number: int | None) -> str:
    """Return the colour of a sign, as a class of the style."""
    return "tone-none" if number is None else f"tone-{number % _TONES}"


def key_button(id_: str, number: int, name: str) -> Markup:
    """Return the button that shows one class of a chart alone."""
    swatch = tag(
        "svg", sign(number), viewBox="-7 -7 14 14", class_=tone(number), aria_hidden="true"
    )
    return tag(
        "button",
        swatch,
        name,
        type="button",
        aria_pressed="false",
        data_chart=id_,
        data_class=number,
    )


def centres(
    points: Float[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"]
) -> dict[int, tuple[int, np.ndarray, np.ndarray]]:
    """Return for each class the number of its points, their mean and their standard deviation."""
    return {
        int(label): (len(own), own.mean(axis=0), own.std(axis=0))
        for label in np.unique(labels)
        for own in [points[labels == label]]
    }


def _draw(point: Point, x: float, y: float) -> Markup:
    shape = tag("g", sign(point.sign), transform=f"translate({x:.1f} {y:.1f})")
    drawn = tag("g", shape, class_=tone(point.sign))
    return mark(point.tip, x, y, drawn, data_class=point.sign)


def _scale(values: Sequence[Number], start: Number, end: Number) -> Scale:
    return Scale(min(values, default=0.0), max(values, default=1.0), start, end)
