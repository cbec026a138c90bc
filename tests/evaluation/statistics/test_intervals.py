"""Intervals agree with scipy's, repeat to the bit, and are undefined where nothing is known."""

import math

import numpy as np
import pytest
from scipy import stats

from vit_jax.evaluation.statistics.intervals import (
    Interval,
    bca,
    bca_interval,
    bca_p_value,
    bootstrap,
    mean_bootstrap,
    mean_interval,
    wilson,
)


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


@pytest.mark.parametrize("count", [1, 7, 359, 360])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_that_of_scipy(count, confidence):
    for successes in {0, 1, count // 2, count - 1, count}:
        expected = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
        assert wilson(successes, count, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_of_all_or_none_ends_at_the_limit():
    assert wilson(0, 360).low == 0.0 and wilson(360, 360).high == 1.0
    assert wilson(360, 360).low == pytest.approx(360 / (360 + stats.norm.ppf(0.975) ** 2))
    assert all(map(math.isnan, wilson(0, 0)))


@pytest.mark.parametrize("count", [7, 60, 359])
@pytest.mark.parametrize("skewed", [False, True])
def test_bca_is_that_of_scipy(count, skewed):
    rng = np.random.default_rng(count)
    values = rng.exponential(size=count) if skewed else rng.normal(size=count)
    drawn = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=rng)
    expected = drawn.confidence_interval
    width = expected.high - expected.low
    found = mean_interval(values, resamples=40_000)
    assert found == pytest.approx(tuple(expected), abs=0.02 * width)


def test_the_interval_follows_from_the_distribution_as_in_scipy():
    """On scipy's own resamples, both are the same to rounding."""
    values = np.random.default_rng(3).gamma(0.5, size=40)
    drawn = stats.bootstrap((values,), np.mean, n_resamples=999, method="BCa", rng=1)
    contributions = np.stack([values, np.ones(40)], axis=1)
    resampled = drawn.bootstrap_distribution
    below = (resampled < values.mean()).mean() / 2 + (resampled <= values.mean()).mean() / 2
    ours = bootstrap(contributions, ratio, resamples=2)
    ours = ours._replace(values=resampled, bias=float(stats.norm.ppf(below)))
    assert bca_interval(ours) == pytest.approx(tuple(drawn.confidence_interval), rel=1e-9)


def test_half_of_the_resamples_that_equal_the_estimate_are_below_it():
    contributions = np.stack([np.arange(60) % 4 > 0, np.ones(60)], axis=1)
    drawn = bootstrap(contributions, ratio)
    below = stats.percentileofscore(drawn.values, drawn.estimate, kind="mean") / 100
    assert (drawn.values == drawn.estimate).mean() > 0.05
    assert drawn.bias == pytest.approx(stats.norm.ppf(below))


def test_the_same_seed_repeats_to_the_bit_and_another_does_not():
    values = np.random.default_rng(0).exponential(size=359)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=4) != mean_interval(values, seed=5)


def test_chunks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(0).exponential(size=359)
    whole = mean_interval(values)
    monkeypatch.setattr("vit_jax.evaluation.statistics.intervals.CHUNK_BYTES", 8 * 359 * 7)
    assert mean_interval(values) == pytest.approx(whole, rel=1e-12)


def test_a_row_can_stand_for_several_images():
    rows = np.array([[0.0, 1.0], [1.0, 1.0], [5.0, 1.0], [9.0, 1.0]])
    counts = np.array([40, 30, 20, 0])
    grouped = bootstrap(rows, ratio, counts=counts, resamples=20_000)
    single = bootstrap(np.repeat(rows, counts, axis=0), ratio, resamples=20_000)
    assert grouped.estimate == single.estimate
    assert grouped.acceleration == pytest.approx(single.acceleration, rel=1e-9)
    assert bca_interval(grouped) == pytest.approx(tuple(bca_interval(single)), rel=0.02)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_equal_values_say_nothing_about_others(value):
    assert all(map(math.isnan, mean_interval(np.full(360, value))))


def test_what_is_not_known_is_undefined():
    for values in ([], [1.0], [0.5, math.nan, 1.0], [math.inf, 1.0]):
        assert all(map(math.isnan, mean_interval(np.array(values))))
    # A statistic may be below that of every resample.
    distinct = np.eye(50)
    assert all(map(math.isnan, bca(distinct, lambda sums: (sums**2).sum(axis=-1))))
    # A resample may have no image of the denominator.
    drawn = bootstrap(np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 0.0]]), ratio)
    assert math.isfinite(drawn.acceleration) and math.isfinite(drawn.bias)
    assert all(map(math.isnan, bca_interval(drawn))) and math.isnan(bca_p_value(drawn))


def test_the_p_value_is_where_the_interval_excludes_the_null_value():
    values = np.random.default_rng(1).gamma(2.0, size=100) - 1.6
    contributions = np.stack([values, np.ones(100)], axis=1)
    drawn = bootstrap(contributions, ratio, resamples=20_000)
    p = bca_p_value(drawn)
    assert 0.001 < p < 0.2
    wider, narrower = bca_interval(drawn, 1 - 0.98 * p), bca_interval(drawn, 1 - 1.02 * p)
    assert wider.low <= 0 <= wider.high
    assert not narrower.low <= 0 <= narrower.high


def test_p_values_at_the_limits():
    ones = np.ones((100, 2))
    assert bca_p_value(bootstrap(ones * [0, 1], ratio)) == 1.0
    assert bca_p_value(bootstrap(ones, ratio)) == 0.0
    values = np.stack([np.linspace(1, 2, 100), np.ones(100)], axis=1)
    found = [bca_p_value(bootstrap(values, ratio, resamples=999, seed=i)) for i in range(8)]
    assert min(found) == 1 / 1000 and max(found) < 0.003
    assert math.isnan(bca_p_value(bootstrap(values[:1], ratio)))


def test_the_p_value_of_a_difference_falls_as_it_grows():
    found = []
    for first_only in (5, 10, 20, 40, 97, 99):
        values = np.zeros(100)
        values[:first_only] = 1
        found.append(bca_p_value(mean_bootstrap(values)))
    assert found == sorted(found, reverse=True) and found[-1] == 1 / 2001


def test_fifty_thousand_images_take_bounded_memory():
    rng = np.random.default_rng(0)
    found = mean_interval(rng.exponential(size=50_000), resamples=200)
    assert isinstance(found, Interval)
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(50_000), rel=0.2)
