"""Confidence intervals: Wilson's of a proportion, and the BCa bootstrap of other statistics.

A proportion near 1 needs Wilson's: a bootstrap interval covers too little there, and there is none
if every image is right.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real
from scipy import sparse
from scipy.special import ndtr, ndtri

# The memory of the largest array of resamples.
CHUNK_BYTES = 2**26

# What each image adds to some sums: (rows, m), dense or sparse.
Contributions: TypeAlias = Real[np.ndarray, "rows m"] | sparse.csr_array

# A statistic of sums over images. It is applied to many sums at once, along the leading axes.
Statistic = Callable[[Float[np.ndarray, "... m"]], Float[np.ndarray, "..."]]


class Interval(NamedTuple):
    """A confidence interval; NaN where it is undefined."""

    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan)


class Bootstrap(NamedTuple):
    """The bootstrap distribution of a statistic, and how far it is from symmetric."""

    estimate: float  # the statistic of the images themselves
    values: Float[np.ndarray, " resamples"]
    bias: float  # z0: the normal quantile of the share of values below the estimate
    acceleration: float  # a: a sixth of the skewness of the influence of the images

    @property
    def is_defined(self) -> bool:
        """Whether the estimate and all values are finite, and the estimate is among the values."""
        if not np.isfinite([self.estimate, *self.values]).all():
            return False
        return self.is_constant or bool(np.isfinite([self.bias, self.acceleration]).all())

    @property
    def is_constant(self) -> bool:
        """Whether all resamples have the same value, apart from rounding."""
        return bool(np.ptp(self.values) <= 1e-12 * abs(self.estimate))


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson 1927; Brown et al. 2001, equation 4).

    Args:
      successes: How many of the images have the property, such as a correct prediction.
      count: The number of images. The interval of no images is undefined.
      confidence: The share of test sets of which the interval contains the true proportion.
    """
    if not count:
        return UNDEFINED
    z = float(ndtri((1 + confidence) / 2))
    share = successes / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = share * (1 - share) / count + z**2 / (4 * count**2)
    half = z / (1 + z**2 / count) * math.sqrt(spread)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return Interval(low, high)


def bca(
    contributions: Contributions,
    statistic: Statistic,
    *,
    counts: Int[np.ndarray, " rows"] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the BCa bootstrap interval (Efron 1987) of a statistic of sums over images.

    It is undefined for fewer than two images, where the statistic is not finite for the images or a
    resample, where it is beyond those of all resamples, and where these are equal: then it would
    have no width, though other images may well give another value.

    Args:
      contributions: What each image adds to the sums; see `bootstrap`.
      statistic: The statistic, such as a ratio of two sums.
      counts: How many images each row stands for; one by default.
      confidence: The share of test sets of which the interval contains the true value.
      resamples: The number of resamples.
      seed: The seed of the resampling. The same seed gives the same interval, to the bit.
    """
    drawn = bootstrap(contributions, statistic, counts=counts, resamples=resamples, seed=seed)
    return bca_interval(drawn, confidence)


def mean_interval(
    values: Real[np.ndarray, " n"], confidence: float = 0.95, **options: int
) -> Interval:
    """Return the BCa interval of the mean of some values, one per image, in any order.

    Args:
      values: The values, such as the losses of the images.
      confidence: The share of test sets of which the interval contains the true mean.
      **options: `resamples` and `seed` of `bootstrap`.
    """
    return bca_interval(mean_bootstrap(values, **options), confidence)


def mean_bootstrap(values: Real[np.ndarray, " n"], **options: int) -> Bootstrap:
    """Return the bootstrap distribution of the mean of some values, one per image, in any order.

    Args:
      values: The values.
      **options: `resamples` and `seed` of `bootstrap`.
    """
    distinct, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    contributions = np.stack([distinct, np.ones(len(distinct))], axis=1)
    return bootstrap(contributions, _mean, counts=counts, **options)


def bootstrap(
    contributions: Contributions,
    statistic: Statistic,
    *,
    counts: Int[np.ndarray, " rows"] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Return the bootstrap distribution of a statistic of sums over images.

    A resample draws as many images as there are, with replacement. Because the statistic depends
    on sums only, a resample is a multinomial weight for each row; and the sums without one image,
    which the acceleration needs (Efron 1987, equation 6.6), are the total minus its row.

    Args:
      contributions: What each image adds to the sums. For a mean, it is the value and a one.
      statistic: The statistic; it maps sums (..., m) to values (...).
      counts: How many images each row stands for, where many are alike; one by default.
      resamples: The number of resamples.
      seed: The seed of the resampling.
    """
    rows = contributions.astype(np.float64)
    multiple = np.ones(rows.shape[0], np.int64) if counts is None else counts
    rows, multiple = rows[multiple > 0], multiple[multiple > 0]
    count = int(multiple.sum())
    if count < 2:
        return Bootstrap(math.nan, np.full(resamples, np.nan), math.nan, math.nan)
    total = multiple @ rows
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(total[None])[0])
        values = _resampled(rows, multiple, statistic, resamples, seed)
        jackknife = _without_one_image(rows, total, statistic)
    below = (values < estimate).mean() / 2 + (values <= estimate).mean() / 2
    influence = multiple @ jackknife / count - jackknife
    cube, square = multiple @ influence**3, multiple @ influence**2
    acceleration = cube / (6 * square**1.5) if square else 0.0
    return Bootstrap(estimate, values, float(ndtri(below)), float(acceleration))


def bca_interval(drawn: Bootstrap, confidence: float = 0.95) -> Interval:
    """Return the BCa interval of a bootstrap distribution (Efron 1987, equation 3.4).

    Args:
      drawn: The distribution.
      confidence: The share of test sets of which the interval contains the true value.
    """
    if not drawn.is_defined or drawn.is_constant:
        return UNDEFINED
    tails = ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    shifted = drawn.bias + tails
    levels = ndtr(drawn.bias + shifted / (1 - drawn.acceleration * shifted))
    low, high = np.quantile(drawn.values, levels)
    return Interval(float(low), float(high))


def bca_p_value(drawn: Bootstrap, null: float = 0.0) -> float:
    """Return the two-sided p-value of a null value.

    It is 1 minus the confidence of the widest BCa interval without the null value (Efron and
    Tibshirani 1993, section 15.4), but at least 1 / (number of resamples + 1), which it also is if
    the null value is beyond all resamples. It is NaN if the interval is undefined.

    Args:
      drawn: The distribution.
      null: The value of the statistic under the null hypothesis.
    """
    if not drawn.is_defined:
        return math.nan
    if drawn.is_constant:
        return float(drawn.estimate == null)
    resamples = len(drawn.values)
    least = 1 / (resamples + 1)
    below = (drawn.values < null).sum() / 2 + (drawn.values <= null).sum() / 2
    shifted = float(ndtri((below + 0.5) / (resamples + 1))) - drawn.bias
    scale = 1 + drawn.acceleration * shifted
    if below in (0, resamples) or scale <= 0:  # the equation has a pole beyond the resamples
        return least
    return max(2 * float(ndtr(-abs(shifted / scale - drawn.bias))), least)


def _resampled(
    rows: Contributions,
    counts: Int[np.ndarray, " rows"],
    statistic: Statistic,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, " resamples"]:
    """Return the statistic of each resample."""
    rng = np.random.default_rng(seed)
    parts = []
    for start, stop in _chunks(resamples, max(rows.shape)):
        weights = _draw_weights(rng, counts, stop - start)
        parts.append(statistic(weights.astype(np.float64) @ rows))
    return np.concatenate(parts)


def _draw_weights(
    rng: np.random.Generator, counts: Int[np.ndarray, " rows"], size: int
) -> Int[np.ndarray, "size rows"]:
    """Return how often each resample has each row: multinomial numbers."""
    images = int(counts.sum())
    if images > len(counts):
        return rng.multinomial(images, counts / images, size=size)
    # Of a row for each image, it is faster to draw the images.
    drawn = rng.integers(images, size=(size, images))
    return np.stack([np.bincount(each, minlength=images) for each in drawn])


def _without_one_image(
    rows: Contributions, total: Float[np.ndarray, " m"], statistic: Statistic
) -> Float[np.ndarray, " rows"]:
    """Return the statistic of all images but one, for each row."""
    parts = []
    for start, stop in _chunks(*rows.shape):
        part = rows[start:stop]
        dense = part if isinstance(part, np.ndarray) else part.toarray()
        parts.append(statistic(total - dense))
    return np.concatenate(parts)


def _chunks(length: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last row of parts of an array (length, width) of bounded memory."""
    size = max(1, CHUNK_BYTES // (8 * width))
    for start in range(0, length, size):
        yield start, min(start + size, length)


def _mean(sums: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    return sums[..., 0] / sums[..., 1]
