"""Intervals cover the truth as often as they say; paired tests reject equal models as rarely."""

import numpy as np
import pytest

from vit_jax.evaluation.statistics.accuracy import balanced_accuracy_interval
from vit_jax.evaluation.statistics.intervals import mean_interval, wilson
from vit_jax.evaluation.statistics.paired import mcnemar, paired_bootstrap

SETS = 2000  # simulated test sets
RESAMPLES = 1000

ALL_SIZES = pytest.mark.parametrize("count", [360, 2000])
ALL_ACCURACIES = pytest.mark.parametrize("accuracy", [0.76, 0.9, 0.99])
# The accuracies of two models, and the correlation of their hits.
MODELS = pytest.mark.parametrize(
    ("first", "second", "correlation"),
    [(0.9, 0.85, 0.0), (0.9, 0.85, 0.5), (0.99, 0.94, 0.2), (0.76, 0.71, 0.5)],
)


def coverage(intervals, truth):
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


def draw_pairs(first, second, correlation, count):
    """Returns how many images both models have right, only the first, only the second, neither."""
    spread = np.sqrt(first * (1 - first) * second * (1 - second))
    both = first * second + correlation * spread
    shares = [both, first - both, second - both, 1 - first - second + both]
    return np.random.default_rng(2).multinomial(count, shares, size=SETS)


@ALL_SIZES
@ALL_ACCURACIES
def test_wilson_covers_the_true_accuracy(count, accuracy):
    hits = np.random.default_rng(0).binomial(count, accuracy, size=SETS)
    found = coverage([wilson(int(right), count) for right in hits], accuracy)
    print(f"{found:.1%}")
    assert 0.93 <= found <= 0.975


@pytest.mark.slow
@ALL_SIZES
@ALL_ACCURACIES
def test_bca_covers_the_true_mean_loss(count, accuracy):
    """Losses are skewed: 0.1 on average for a right image, 3 for a wrong one.

    Four wrong images of 360 say little about the losses of wrong ones: there it is 92.8 % (of 6,000
    sets), and 89.9 % for the percentile bootstrap.
    """
    rng = np.random.default_rng(1)
    right = rng.random((SETS, count)) < accuracy
    low = rng.poisson(2, right.shape) / 20
    losses = np.where(right, low, 2 + rng.geometric(1 / 20, right.shape) / 20)
    truth = accuracy * 0.1 + (1 - accuracy) * 3
    found = coverage([mean_interval(row, resamples=RESAMPLES) for row in losses], truth)
    print(f"{found:.1%}")
    assert 0.92 <= found <= 0.975


@pytest.mark.slow
@ALL_SIZES
def test_bca_covers_the_true_balanced_accuracy(count):
    """Ten classes: the most frequent has ten times as many images as the least, and more recall."""
    rng = np.random.default_rng(3)
    shares = np.arange(1, 11) / 55
    recalls = np.linspace(0.7, 0.95, 10)
    supports = rng.multinomial(count, shares, size=SETS)
    hits = rng.binomial(supports, recalls)
    matrices = np.zeros((SETS, 10, 10), int)
    matrices[:, range(10), range(10)] = hits
    matrices[:, range(10), np.arange(10) - 1] = supports - hits
    intervals = [balanced_accuracy_interval(each, resamples=RESAMPLES) for each in matrices]
    found = coverage(intervals, recalls.mean())
    print(f"{found:.1%}")
    assert 0.93 <= found <= 0.975


@pytest.mark.slow
@MODELS
def test_mcnemar_rejects_few_equal_models_and_most_that_differ(first, second, correlation):
    for other, bounds in {first: (0.02, 0.06), second: (0.8, 1.0)}.items():
        pairs = draw_pairs(first, other, correlation, 1000)
        found = np.mean([mcnemar(int(a), int(b)) < 0.05 for _, a, b, _ in pairs])
        print(f"{first} and {other}, correlation {correlation}: {found:.1%}")
        assert bounds[0] <= found <= bounds[1]


@pytest.mark.slow
@MODELS
def test_the_bootstrap_rejects_few_equal_models_and_most_that_differ(first, second, correlation):
    for other, bounds in {first: (0.02, 0.06), second: (0.8, 1.0)}.items():
        rejected = 0
        for row in draw_pairs(first, other, correlation, 1000):
            hits = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], row, axis=0)
            rejected += paired_bootstrap(hits[:, 0], hits[:, 1], resamples=RESAMPLES).p < 0.05
        print(f"{first} and {other}, correlation {correlation}: {rejected / SETS:.1%}")
        assert bounds[0] <= rejected / SETS <= bounds[1]
