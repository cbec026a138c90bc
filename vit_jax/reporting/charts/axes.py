"""What charts share: scales, axes, marks that say what they show, and the figure around a chart."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vit_jax.reporting.markup import EMPTY, Attribute, Markup, tag
from vit_jax.reporting.numbers import Format, Number

WIDTH = 360


class Scale(NamedTuple):
    """Maps the values from `low` to `high` to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: Number) -> float:
        """Return the pixel of a value; values outside the range are put on its edge."""
        low, high = self.low, self.high
        value = min(max(float(value), low), high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, number: int = 5) -> list[float]:
        """Return about `number` round values in the range, at multiples of 1, 2 or 5."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, (last - first) // number)
            powers = [10.0**power for power in range(first, last + 1, every)]
            return [value for value in powers if self.low <= value <= self.high]
        span = self.high - self.low
        if not span > 0:
            return [float(self.low)]
        unit = 10.0 ** math.floor(math.log10(span / number))
        step = min((unit * m for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - number))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def axes(
    x: Scale, y: Scale, x_format: Format, y_format: Format, *, x_title: str = "", y_title: str = ""
) -> Markup:
    """Return the two axes with their ticks and titles; lines of the grid belong to the y axis."""
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        parts.append(text(y_format(value), x.start - 6, at + 4, anchor="end"))
    for value in x.ticks(4):
        parts.append(text(x_format(value), x(value), y.start + 15, anchor="middle"))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    if x_title:
        parts.append(text(x_title, (x.start + x.end) / 2, y.start + 30, anchor="middle"))
    if y_title:
        parts.append(text(y_title, x.start, y.end - 8))
    return tag("g", *parts, aria_hidden="true")


def text(
    content: str, x: Number, y: Number, *, anchor: str = "start", strong: bool = False
) -> Markup:
    """Return a line of text at a place."""
    kind = "strong" if strong else None
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_=kind)


def mark(tip: str, x: Number, y: Number, *shapes: Markup, **attributes: Attribute) -> Markup:
    """Return a mark that says `tip` when a pointer or the keyboard reaches it.

    Args:
      tip: What the mark shows.
      x: Where it is, in pixels.
      y: Where it is, in pixels.
      shapes: What is drawn; the class `probe` is only seen while the mark is reached.
      attributes: Further attributes.
    """
    return tag(
        "g",
        *shapes,
        class_="mark",
        role="img",
        data_x=float(x),
        data_y=float(y),
        aria_label=tip,
        **attributes,
    )


def svg(
    label: str,
    height: Number,
    near: str,
    *parts: Markup,
    width: Number = WIDTH,
    **attributes: Attribute,
) -> Markup:
    """Return a chart.

    Args:
      label: What the chart shows, for screen readers.
      height: Height in pixels.
      near: The axes, `x`, `y` or `xy`, along which a pointer finds the nearest mark.
      parts: What is drawn.
      width: Width in pixels.
      attributes: Further attributes.
    """
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="group",
        aria_label=label,
        data_near=near,
        **attributes,
    )


def figure(title: str, chart: Markup, *others: Markup, caption: str = "") -> Markup:
    """Return a chart with its title, a caption, and others such as its key and its table."""
    note = tag("p", caption, class_="note") if caption else EMPTY
    return tag("figure", tag("figcaption", title), chart, note, *others)


def key(entries: Sequence[tuple[str, int, bool]]) -> Markup:
    """Return what the lines of a chart stand for: name, tone, and whether the line is dashed."""
    items = []
    for name, tone, dashed in entries:
        kind = "trace line dashed" if dashed else "trace line"
        line = tag("line", class_=kind, x1=0, x2=24, y1=7, y2=7)
        swatch = tag(
            "svg", line, viewBox="0 0 24 14", class_=f"swatch tone-{tone}", aria_hidden="true"
        )
        items.append(tag("li", swatch, name))
    return tag("ul", *items, class_="key")
