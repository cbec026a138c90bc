"""ImageNet-C: evaluations of corrupted images, averaged by corruption and by severity.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

SEVERITIES = range(1, 6)
# The corruptions of the benchmark, and the error of AlexNet on each, averaged over severities: the
# figures of Hendrycks's repository `robustness`, as in `imagenet.py` of google-research/augmix.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")  # not part of the mean
# CORRUPTION_SEVERITY, also as a config of TFDS; or folders CORRUPTION/SEVERITY, as published.
_NAME = re.compile(rf"(?:.*/)?({'|'.join([*ALEXNET_ERRORS, *EXTRA])})[_/]([1-5])(?::[^/]*)?")


def corrupted_sets(
    corruptions: Iterable[str] = tuple(ALEXNET_ERRORS),
    severities: Iterable[int] = SEVERITIES,
    split: str = "validation",
) -> tuple[tuple[str, str], ...]:
    """Return the sets of ImageNet-C in TFDS, for `config.eval.sets`.

    Args:
      corruptions: Names of corruptions.
      severities: Severities from 1 to 5.
      split: Split of each set.
    """
    severities = tuple(severities)
    names = [f"{corruption}_{severity}" for corruption in corruptions for severity in severities]
    return tuple((name, f"imagenet2012_corrupted/{name}:{split}") for name in names)


def summarize_corruptions(results: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the mean errors of the results for the sets of corrupted images.

    The name of such a set is CORRUPTION_SEVERITY, such as `snow_3`; or the location of its images,
    such as `imagenet2012_corrupted/snow_3:validation` or `/data/imagenet-c/snow/3:train+val`.
    Errors are 1 - top-1. `by_corruption` has the mean over the severities of each corruption, and
    `by_severity` the mean over the corruptions of each severity. `mean_error` is the mean of
    `by_corruption`, and `mce` the mean corruption error: each mean is divided by that of AlexNet.
    The last three are of the benchmark's 15 corruptions; `mce` is None unless all are there in all
    5 severities. Several results for one corruption and severity are averaged, and those without a
    top-1 accuracy are left out.

    Args:
      results: Metrics by the name of the set.

    Returns:
      Plain JSON; empty if no set has such a name.
    """
    given: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
    for name, result in results.items():
        if (found := _NAME.fullmatch(name)) and "top1" in result:
            given[found[1], int(found[2])].append(1 - result["top1"])
    if not given:
        return {}
    errors: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for (name, severity), of_set in given.items():
        errors[name][severity] = fmean(of_set)
    by_corruption = {name: fmean(of_name.values()) for name, of_name in errors.items()}
    benchmark = {name: errors[name] for name in ALEXNET_ERRORS if name in errors}
    of_severity = {
        str(severity): [of_name[severity] for of_name in benchmark.values() if severity in of_name]
        for severity in SEVERITIES
    }
    relative = [by_corruption[name] / ALEXNET_ERRORS[name] for name in benchmark]
    complete = sum(map(len, benchmark.values())) == len(SEVERITIES) * len(ALEXNET_ERRORS)
    return {
        "sets": sum(map(len, given.values())),
        "by_corruption": by_corruption,
        "by_severity": {key: fmean(found) for key, found in of_severity.items() if found},
        "mean_error": fmean(by_corruption[name] for name in benchmark) if benchmark else None,
        "mce": fmean(relative) if complete else None,
    }
