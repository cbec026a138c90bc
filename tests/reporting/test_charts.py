"""Charts: data to SVG."""

import re

import numpy as np
import pytest
from made_up import curve

from vit_jax.reporting.charts.axes import Scale
from vit_jax.reporting.charts.bars import Bar, bar_chart
from vit_jax.reporting.charts.lines import MAX_POINTS, MAX_ROWS, Line, line_chart, thin
from vit_jax.reporting.charts.reliability import reliability_chart
from vit_jax.reporting.charts.scatter import MAX_SIGNS, Point, centres, scatter_chart, sign
from vit_jax.reporting.numbers import decimal, interval, percent, seconds


def labels(chart):
    """Returns what the marks of a chart say."""
    return re.findall(r'class="mark" role="img"[^>]* aria-label="([^"]*)"', chart)


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 2000, [0, 500, 1000, 1500, 2000]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
    assert Scale(low, high, 0, 100).ticks() == pytest.approx(expected)


def test_a_logarithmic_scale_has_powers_of_ten_at_equal_distances():
    scale = Scale(0.01, 10, 0, 300, log=True)
    assert scale.ticks() == pytest.approx([0.01, 0.1, 1, 10])
    assert [scale(value) for value in scale.ticks()] == pytest.approx([0, 100, 200, 300])


def test_values_outside_a_scale_are_on_its_edge():
    assert Scale(0, 1, 10, 20)(7) == 20
    assert Scale(2, 2, 10, 20)(2) == 15


def test_a_hundred_thousand_rows_become_few_points_without_losing_the_range():
    rng = np.random.default_rng(0)
    line = Line("loss", np.arange(1, 100_001), rng.normal(size=100_000))
    thinned = thin(line)
    assert len(thinned.steps) == MAX_POINTS and thinned.steps[-1] == 100_000
    assert thinned.sizes.sum() == 100_000 and np.ptp(thinned.sizes) <= 1
    assert thinned.lows.min() == line.values.min() and thinned.highs.max() == line.values.max()
    assert np.average(thinned.means, weights=thinned.sizes) == pytest.approx(line.values.mean())
    chart = line_chart("Loss", [line], decimal)
    assert len(labels(chart)) == MAX_POINTS
    assert chart.count("<tr>") == MAX_ROWS + 1
    assert "Means of 556 steps" in chart


def test_lines_say_their_values_and_have_a_table():
    lines = [
        Line("val", np.array([1, 2]), np.array([0.5, 0.75])),
        Line("test", np.array([2]), np.array([0.7])),
    ]
    chart = line_chart("Accuracy", lines, percent)
    assert labels(chart) == ["step 1, val 50.00 %", "step 2, val 75.00 %", "step 2, test 70.00 %"]
    assert (
        '<th scope="row">1</th><td class="number">50.00 %</td><td class="number">n/a</td>' in chart
    )


def test_bars_are_as_long_as_their_values_with_whiskers_of_the_interval():
    chart = bar_chart("recall", [Bar("a", 0.5, 0.25, 1.0), Bar("b", None)], percent)
    assert labels(chart) == ["a, 50.00 %, 95 % interval 25.00 % to 100.00 %", "b, n/a"]
    full = 360 - 58 - 118
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', chart)]
    assert widths == [full / 2, 0]
    assert f"M{118 + full / 4:.1f} " in chart and f"H{118 + full:.1f}" in chart


def test_a_reliability_diagram_has_a_mark_for_each_bin_that_holds_images():
    made = curve(np.random.default_rng(0))
    chart = reliability_chart([("raw", made), ("scaled", made)])
    held = sum(n > 0 for n in made["counts"])
    assert 0 < held < 15
    assert len(labels(chart)) == 2 * held
    assert chart.count("<rect") - chart.count('class="count"') == held  # squares of the second


def test_every_sign_differs_without_colour():
    signs = {sign(number) for number in range(MAX_SIGNS)}
    assert len(signs) == MAX_SIGNS


def test_a_point_is_drawn_where_it_is():
    points = [
        Point(0, 0, 0, "left low"),
        Point(1, 1, None, "right high"),
        Point(0.5, 0.5, 3, "mid"),
    ]
    chart = scatter_chart("c", "features", points, ("one", "two"))
    places = re.findall(r'data-x="([\d.]+)" data-y="([\d.]+)"', chart)
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in places]
    assert x0 < x2 < x1 and y0 > y2 > y1
    assert (x2, y2) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2))


def test_centres_are_those_of_each_class():
    points = np.array([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]])
    found = centres(points, np.array([1, 1, 0]))
    n, mean, spread = found[1]
    assert (n, mean.tolist(), spread.tolist()) == (2, [1.0, 2.0], [1.0, 2.0])


def test_numbers_that_are_not_defined_say_so():
    assert percent(None) == percent(float("nan")) == decimal(None) == "n/a"
    assert interval(None, 0.5, percent) == ""
    assert [seconds(s) for s in (1.25, 61, 3723.4)] == ["1.2 s", "1:01", "1:02:03"]
