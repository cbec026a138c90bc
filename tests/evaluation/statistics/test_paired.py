"""Paired tests agree with the exact binomial test and with scipy's bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from vit_jax.evaluation.statistics.paired import mcnemar, paired_bootstrap


@pytest.mark.parametrize("first_only", [0, 1, 4, 9, 30])
@pytest.mark.parametrize("second_only", [0, 1, 4, 10])
def test_mcnemar_is_the_exact_test_with_half_of_what_was_observed(first_only, second_only):
    either = first_only + second_only
    exact = stats.binomtest(first_only, either).pvalue if either else 1.0
    # The exact p-value counts the observed split; so does its mirror image, if it is another one.
    observed = math.comb(either, first_only) * 0.5**either
    halves = 1 if first_only == second_only else 2
    expected = exact - halves * observed / 2 if either else 1.0
    assert mcnemar(first_only, second_only) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first_only, second_only) == mcnemar(second_only, first_only)


def test_published_example():
    """Fagerland et al. 2013, table 1: airway hyper-responsiveness before and after, 1 and 7."""
    assert mcnemar(1, 7) == pytest.approx(0.039, abs=0.0005)


@pytest.mark.parametrize("count", [7, 359])
def test_the_interval_of_the_difference_is_that_of_scipy(count):
    rng = np.random.default_rng(count)
    first = rng.exponential(size=count)
    second = 0.5 * first + rng.exponential(size=count)
    found = paired_bootstrap(first, second, resamples=40_000)
    drawn = stats.bootstrap(
        (first, second),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=40_000,
        method="BCa",
        vectorized=True,
        rng=rng,
    )
    expected = drawn.confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.02 * width)
    assert found.value == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    swapped = paired_bootstrap(second, first, resamples=40_000)
    assert swapped.value == pytest.approx(-found.value)
    assert (-swapped.high, -swapped.low) == pytest.approx(tuple(expected), abs=0.02 * width)


def test_hits_of_two_models():
    rng = np.random.default_rng(0)
    first = rng.random(1000) < 0.9
    second = np.where(rng.random(1000) < 0.8, first, rng.random(1000) < 0.6)
    found = paired_bootstrap(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.low < found.value < found.high
    assert (found.p < 0.05) == (found.low > 0)
    assert found == paired_bootstrap(first, second)


def test_the_same_model_twice_does_not_differ():
    hits = np.arange(359) % 10 > 0
    found = paired_bootstrap(hits, hits)
    assert (found.value, found.p) == (0.0, 1.0)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert mcnemar(0, 0) == 1.0


def test_a_loss_that_is_not_finite_is_undefined():
    found = paired_bootstrap(np.array([1.0, math.nan, 2.0]), np.ones(3))
    assert np.isnan(found).all()
