"""Horizontal bars with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

from vit_jax.reporting.charts.axes import WIDTH, Scale, mark, svg, text
from vit_jax.reporting.markup import EMPTY, Markup, tag
from vit_jax.reporting.numbers import Format, interval

_ROW = 20
_LEFT = 118
_RIGHT = 58
_MAX_LETTERS = 18


class Bar(NamedTuple):
    """A value from 0, with an interval if it has one; None if it is not defined."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    details: str = ""  # further lines about the bar


def bar_chart(label: str, bars: Sequence[Bar], form: Format, *, longest: float = 1.0) -> Markup:
    """Return a chart with a row for each bar.

    Args:
      label: What the chart shows, for screen readers.
      bars: The bars, from top to bottom.
      form: From a value to text.
      longest: The value of a bar of full length.
    """
    x = Scale(0.0, longest or 1.0, _LEFT, WIDTH - _RIGHT)
    rows = [_row(bar, x, 6.0 + i * _ROW, form) for i, bar in enumerate(bars)]
    bottom = 6 + len(bars) * _ROW
    axis = tag("line", class_="axis", x1=_LEFT, x2=_LEFT, y1=4, y2=bottom)
    return svg(label, bottom + 4, "y", axis, *rows)


def _row(bar: Bar, x: Scale, top: float, form: Format) -> Markup:
    middle = top + _ROW / 2
    end = x(bar.value or 0.0)
    shapes = [
        text(shorten(bar.name), _LEFT - 6, middle + 4, anchor="end", strong=True),
        tag(
            "rect", class_="shape fill bar", x=_LEFT, y=top + 4, width=end - _LEFT, height=_ROW - 8
        ),
        _whisker(bar, x, middle),
        text(form(bar.value), WIDTH - 2, middle + 4, anchor="end"),
    ]
    found = interval(bar.low, bar.high, form)
    lines = [bar.name, form(bar.value)]
    lines += [f"95 % interval {found}"] if found else []
    lines += [bar.details] if bar.details else []
    return mark(", ".join(lines), (x.start + end) / 2, middle, tag("g", *shapes, class_="tone-0"))


def _whisker(bar: Bar, x: Scale, middle: float) -> Markup:
    if bar.low is None or bar.high is None:
        return EMPTY
    low, high = x(bar.low), x(bar.high)
    path = f"M{low:.1f} {middle - 3}v6M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 3}v6"
    return tag("path", class_="whisker", d=path)


def shorten(name: str) -> str:
    """Return a name that fits beside a chart; the tip has all of it."""
    return name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 1]}…"
