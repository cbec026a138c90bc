"""Dots with their intervals, one below the other."""

from collections.abc import Sequence
from typing import NamedTuple

from vit_jax.reporting.charts.axes import WIDTH, Scale, mark, svg, text
from vit_jax.reporting.markup import Markup, tag
from vit_jax.reporting.numbers import Format, interval

_ROW = 24
_LEFT = 140
_RIGHT = 14
_BOTTOM = 24
_MAX_LETTERS = 20


class Dot(NamedTuple):
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    details: str = ""  # further words about it


def dot_chart(label: str, dots: Sequence[Dot], form: Format) -> Markup:
    """Return a chart with a row for each dot; the interval of the first one is shaded.

    Args:
      label: What the chart shows, for screen readers.
      dots: The dots, from top to bottom.
      form: From a value to text.
    """
    low, high = min(dot.low for dot in dots), max(dot.high for dot in dots)
    x = Scale(low, high, _LEFT, WIDTH - _RIGHT)
    bottom = 6 + len(dots) * _ROW
    first = dots[0]
    left, right = x(first.low), x(first.high)
    band = tag("rect", class_="fill band", x=left, y=4, width=right - left, height=bottom - 4)
    ticks = [
        part
        for value in x.ticks(3)
        for part in (
            tag("line", class_="grid", x1=x(value), x2=x(value), y1=4, y2=bottom),
            text(form(value), x(value), bottom + 15, anchor="middle"),
        )
    ]
    background = tag("g", band, *ticks, class_="tone-0", aria_hidden="true")
    rows = [_row(dot, x, 6 + (i + 0.5) * _ROW, form) for i, dot in enumerate(dots)]
    return svg(label, bottom + _BOTTOM, "y", background, *rows)


def _row(dot: Dot, x: Scale, middle: float, form: Format) -> Markup:
    low, high, centre = x(dot.low), x(dot.high), x(dot.value)
    line = f"M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8"
    shapes = [
        text(_shorten(dot.name), _LEFT - 8, middle + 4, anchor="end", strong=True),
        tag("path", class_="whisker", d=line),
        tag("circle", class_="shape fill", cx=centre, cy=middle, r=4.5),
    ]
    found = interval(dot.low, dot.high, form)
    lines = [dot.name, form(dot.value), f"95 % interval {found}"]
    lines += [dot.details] if dot.details else []
    return mark(", ".join(lines), centre, middle, tag("g", *shapes, class_="tone-0"))


def _shorten(name: str) -> str:
    """Return a name that fits beside the chart: its end, where paths of runs differ."""
    return name if len(name) <= _MAX_LETTERS else f"…{name[-_MAX_LETTERS + 1 :]}"
