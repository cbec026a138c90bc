"""Calibration: whether a model is right as often as its probabilities say (Guo et al. 2017).

The paper is "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.special import expit, softmax

from vit_jax.errors import pick
from vit_jax.evaluation.statistics.intervals import Interval, bca

BINS = 15

# Temperatures are searched between these bounds.
TEMPERATURES = (1e-3, 1e3)
ROWS = 4096  # the rows of logits that are held as float64 at once


class Reliability(NamedTuple):
    """A reliability curve: images by their confidence, in bins of equal width."""

    edges: Float[np.ndarray, " edges"]
    counts: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]  # the mean of the images of the bin; NaN without images
    accuracy: Float[np.ndarray, " bins"]  # likewise


def reliability(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = BINS
) -> Reliability:
    """Return the reliability curve (Guo et al. 2017, section 2).

    Args:
      confidence: The probability of the predicted class of each image, from 0 to 1.
      correct: Whether the prediction is right.
      bins: The number of bins. Bin i has the confidences in (i / bins, (i + 1) / bins]; the first
        one has 0 as well.
    """
    edges, index = _binned(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    empty = np.full(bins, np.nan)
    means = [
        np.divide(
            np.bincount(index, values, minlength=bins), counts, out=empty.copy(), where=counts > 0
        )
        for values in (confidence, correct)
    ]
    return Reliability(edges, counts, *means)


def expected_calibration_error(curve: Reliability) -> float:
    """Return the mean distance of accuracy and confidence (Guo et al. 2017, equation 3).

    It is NaN without images, or if a confidence is.

    Args:
      curve: The reliability curve.
    """
    used = curve.counts > 0
    if not used.any():
        return math.nan
    gaps = np.abs(curve.accuracy - curve.confidence)[used]
    return float(np.average(gaps, weights=curve.counts[used]))


def calibration_error_interval(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    bins: int = BINS,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the 95 % BCa interval of the expected calibration error.

    The error of a sample is biased upwards, so that the interval of a calibrated model may not
    contain zero.

    Args:
      confidence: The probability of the predicted class of each image.
      correct: Whether the prediction is right.
      bins: The number of bins.
      resamples: The number of resamples.
      seed: The seed of the resampling.
    """
    _, index = _binned(confidence, bins)
    contributions = np.zeros((len(index), bins + 1))
    contributions[np.arange(len(index)), index] = correct - confidence.astype(np.float64)
    contributions[:, bins] = 1
    return bca(contributions, _mean_gap, resamples=resamples, seed=seed)


def fit_temperature(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], loss: str
) -> float:
    """Return the temperature that minimizes the loss (Guo et al. 2017, section 4.2).

    The logits are to be divided by it. The loss is convex in its inverse, so that the minimum is
    where the derivative is zero. The temperature is NaN if there is no minimum between 0.001 and
    1000, for example because every prediction is right: then a lower one is always better.

    Args:
      logits: The logits of images that the model was not trained on, such as those of `val`.
      labels: The class of each image.
      loss: The loss of the model: softmax, sigmoid or binary.
    """
    slope = pick(SLOPES, loss, "config.objective.loss")

    def derivative(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        return sum(
            slope(logits[i : i + ROWS].astype(np.float64), labels[i : i + ROWS], inverse)
            for i in range(0, len(labels), ROWS)
        )

    low, high = map(math.log, TEMPERATURES)
    ends = derivative(low), derivative(high)
    if not ends[0] > 0 > ends[1]:
        return math.nan
    return math.exp(brentq(derivative, low, high, xtol=1e-12))


def _softmax_slope(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], inverse: float
) -> float:
    """Return the derivative of the summed cross-entropy by the inverse of the temperature."""
    expected = (softmax(inverse * logits, axis=1) * logits).sum(axis=1)
    return float((expected - logits[np.arange(len(labels)), labels]).sum())


def _sigmoid_slope(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], inverse: float
) -> float:
    """Return the derivative of the summed binary cross-entropies of all classes."""
    expected = (expit(inverse * logits) * logits).sum(axis=1)
    return float((expected - logits[np.arange(len(labels)), labels]).sum())


# The losses that a temperature can minimize; the mean over classes has the minimum of their sum.
SLOPES: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "softmax": _softmax_slope,
    "sigmoid": _sigmoid_slope,
    "binary": _sigmoid_slope,
}


def _binned(
    confidence: Float[np.ndarray, " n"], bins: int
) -> tuple[Float[np.ndarray, " edges"], Int[np.ndarray, " n"]]:
    """Return the edges of the bins, and the bin of each image."""
    edges = np.linspace(0, 1, bins + 1)
    return edges, np.digitize(confidence, edges[1:-1], right=True)


def _mean_gap(sums: Float[np.ndarray, "b m"]) -> Float[np.ndarray, " b"]:
    """Return the calibration error from the summed gaps of each bin, then the number of images."""
    return np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1]
