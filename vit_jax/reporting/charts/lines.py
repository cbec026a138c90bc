"""Line charts: metrics over the steps of a run, thinned to what a reader can see."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.reporting.charts.axes import WIDTH, Scale, axes, figure, key, mark, svg
from vit_jax.reporting.markup import EMPTY, Markup, tag
from vit_jax.reporting.numbers import Format, count, percent, short_percent
from vit_jax.reporting.tables import folded, table

# A line has at most this many points, and the table behind it this many rows.
MAX_POINTS = 180
MAX_ROWS = 40

# A larger ratio of the highest to the lowest value is shown on a logarithmic axis.
_LOG_RATIO = 50.0


class Line(NamedTuple):
    """A metric over the steps of a run."""

    name: str
    steps: Int[np.ndarray, " n"]  # increasing
    values: Float[np.ndarray, " n"]  # finite
    tone: int = 0
    dashed: bool = False


class Thinned(NamedTuple):
    """A line with few points: the mean of each group of neighbours, and its range."""

    steps: Int[np.ndarray, " m"]  # the last one of each group
    means: Float[np.ndarray, " m"]
    lows: Float[np.ndarray, " m"]
    highs: Float[np.ndarray, " m"]
    sizes: Int[np.ndarray, " m"]


def thin(line: Line, points: int = MAX_POINTS) -> Thinned:
    """Return at most `points` groups of neighbours, of equal size up to one."""
    number = len(line.steps)
    starts = np.arange(min(points, number)) * number // min(points, number)
    ends = np.append(starts[1:], number)
    sizes = ends - starts
    return Thinned(
        line.steps[ends - 1],
        np.add.reduceat(line.values, starts) / sizes,
        np.minimum.reduceat(line.values, starts),
        np.maximum.reduceat(line.values, starts),
        sizes,
    )


def line_chart(title: str, lines: Sequence[Line], form: Format) -> Markup:
    """Return a chart of lines over steps, with the table behind it.

    Args:
      title: What is shown.
      lines: At least one line, each with at least one point.
      form: From a value to text.
    """
    thinned = [thin(line) for line in lines]
    x = Scale(0, max(int(t.steps[-1]) for t in thinned), 52, WIDTH - 18)
    y = _scale(thinned)
    ticks = short_percent if form is percent else form
    parts = [axes(x, y, count, ticks, x_title="step")]
    for line, t in zip(lines, thinned, strict=True):
        parts.append(tag("g", *_draw(line, t, x, y, form), class_=f"tone-{line.tone}"))
    label = f"{title}: {', '.join(line.name for line in lines)}"
    keys = key([(line.name, line.tone, line.dashed) for line in lines]) if len(lines) > 1 else EMPTY
    notes = ["Logarithmic axis."] if y.log else []
    largest = max(int(t.sizes.max()) for t in thinned)
    if largest > 1:
        notes.append(f"Means of {largest} steps; the band is their range.")
    chart = svg(label, 220, "x", *parts)
    return figure(title, chart, keys, _table(title, lines, form), caption=" ".join(notes))


def _scale(thinned: Sequence[Thinned]) -> Scale:
    """Return the scale of the values; the highest half per cent may be cut off."""
    lows, highs = (np.concatenate([getattr(t, key) for t in thinned]) for key in ("lows", "highs"))
    low, high = float(lows.min()), float(np.percentile(highs, 99.5))
    log = low > 0 and high / low > _LOG_RATIO
    if high <= low:
        low = high - 0.1 * abs(high) - 1e-9  # a constant is a line at the top
    return Scale(low, high, 180, 14, log)


def _draw(line: Line, t: Thinned, x: Scale, y: Scale, form: Format) -> list[Markup]:
    """Return the range, the line, and a mark for each point."""
    steps, means = t.steps.tolist(), t.means.tolist()
    xs = [x(step) for step in steps]
    ys = [y(value) for value in means]
    parts = []
    if t.sizes.max() > 1:
        upper = [(a, y(value)) for a, value in zip(xs, t.highs, strict=True)]
        lower = [(a, y(value)) for a, value in zip(xs, t.lows, strict=True)]
        parts.append(tag("polygon", class_="band fill", points=_path([*upper, *lower[::-1]])))
    kind = "trace line dashed" if line.dashed else "trace line"
    parts.append(tag("polyline", class_=kind, points=_path(zip(xs, ys, strict=True))))
    is_sparse = len(xs) <= 40
    for a, b, step, value in zip(xs, ys, steps, means, strict=True):
        kind = "shape fill" if is_sparse else "shape fill probe"
        shape = tag("circle", class_=kind, cx=a, cy=b, r=3)
        parts.append(mark(f"step {step:,}, {line.name} {form(value)}", a, b, shape))
    return parts


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _table(title: str, lines: Sequence[Line], form: Format) -> Markup:
    """Return the values at some steps, evenly chosen, always with the last one."""
    steps = np.unique(np.concatenate([line.steps for line in lines]))
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, MAX_ROWS).round().astype(int))]
    values = [dict(zip(line.steps.tolist(), line.values.tolist(), strict=True)) for line in lines]
    rows = [[count(step), *(form(found.get(step)) for found in values)] for step in chosen.tolist()]
    caption = (
        title if len(chosen) == len(steps) else f"{title}, at {len(chosen)} of {len(steps):,} steps"
    )
    return folded(
        "Table", table(caption, ["step", *(line.name for line in lines)], rows, tall=True)
    )
