"""Paired tests: whether two models differ on the same images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Real
from scipy.special import bdtr

from vit_jax.evaluation.statistics.intervals import bca_interval, bca_p_value, mean_bootstrap


class Difference(NamedTuple):
    """The mean of the first model minus that of the second, and its interval; NaN if undefined."""

    value: float
    low: float
    high: float
    p: float  # that the means are equal


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the p-value of McNemar's test: both models are right equally often.

    Only the images count on which one of the models is right. This is the mid-p version of the
    exact test, which by itself rejects too rarely (Fagerland, Lydersen and Laake 2013, "The McNemar
    test for binary matched-pairs data: mid-p and asymptotic are better than exact conditional").

    Args:
      first_only: The number of images on which only the first model is right.
      second_only: Those on which only the second is right.
    """
    fewer, either = min(first_only, second_only), first_only + second_only
    if not either:
        return 1.0
    at_most = float(bdtr(fewer, either, 0.5))  # the probability of at most `fewer`
    less = float(bdtr(fewer - 1, either, 0.5)) if fewer else 0.0
    if first_only == second_only:
        return 1 - (at_most - less) / 2
    return at_most + less


def paired_bootstrap(
    first: Real[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    second: Real[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    confidence: float = 0.95,
    **options: int,
) -> Difference:
    """Return the difference of two models with its BCa interval and p-value.

    Args:
      first: A value of the first model for each image, such as whether it is right, or the loss.
      second: The value of the second model for the same images.
      confidence: The share of test sets of which the interval contains the true difference.
      **options: `resamples` and `seed` of `bootstrap`.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    drawn = mean_bootstrap(differences, **options)
    return Difference(drawn.estimate, *bca_interval(drawn, confidence), bca_p_value(drawn))
