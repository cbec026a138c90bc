"""Augmentation policies: random sequences of image operations.

A policy is a frozen dataclass, called as `policy(image, rng)` on uint8 (h, w, c). `parse_policy`
reads the names that papers and other libraries use: `randaug(2,15)`, `rand-m9-mstd0.5-inc1`,
`autoaugment`, `trivialaugment`, `3-augment`. The tables of operations are in `policy_ops`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.operations import OPERATIONS, FillOptions, cutout, from_bands, to_bands
from vit_jax.data.policy_ops import (
    AUTOAUGMENT_OPS,
    RANDAUGMENT_OPS,
    SUBPOLICIES,
    TIMM_INCREASING_OPS,
    TIMM_OPS,
    TRIVIALAUGMENT_OPS,
    cutout_half_side,
)
from vit_jax.errors import ConfigError, suggest

GREY = (128,)
SMOOTH_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def _sample_name(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


def _fill_per_channel(fill: Sequence[int], image: np.ndarray) -> tuple[int, ...]:
    """Return a fill value per channel; a single value is repeated for all channels."""
    if len(fill) == 1:
        return tuple(fill) * image.shape[-1]
    return tuple(fill)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020) in the form of Google's AugReg and big_vision.

    Applies `num_layers` operations, each sampled uniformly from 16, at the same magnitude. As in
    the TensorFlow code, a sampled operation is always applied, and a magnitude above 10 turns
    Solarize off and makes Posterize weaker. Unlike there, Contrast blends with the mean (as in
    Pillow), not with an almost white image.
    """

    num_layers: int
    magnitude: float
    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        bands = to_bands(image)
        options = FillOptions(_fill_per_channel(self.fill, image))
        for _ in range(self.num_layers):
            name = _sample_name((*RANDAUGMENT_OPS, "Cutout"), rng)
            if name == "Cutout":
                height, width = image.shape[:2]
                centre = int(rng.integers(height)), int(rng.integers(width))
                bands = cutout(bands, cutout_half_side(self.magnitude), centre, options)
            else:
                bands = RANDAUGMENT_OPS[name].apply(bands, self.magnitude, rng, options)
        return from_bands(bands)


@dataclasses.dataclass(frozen=True)
class TimmRandAugment:
    """RandAugment in the form of timm, DeiT and Swin: `rand-m9-mstd0.5-inc1`.

    Samples `num_layers` operations uniformly and applies each with probability `probability`. The
    magnitude is sampled from a normal distribution around `magnitude`. With `increasing`, a larger
    magnitude is a stronger change for every operation.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.0  # infinite: sample uniformly from [0, magnitude]
    increasing: bool = False
    num_layers: int = 2
    probability: float = 0.5
    max_magnitude: float = 10.0
    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        ops = TIMM_INCREASING_OPS if self.increasing else TIMM_OPS
        bands = to_bands(image)
        for _ in range(self.num_layers):
            name = _sample_name(tuple(ops), rng)
            if rng.random() >= self.probability:
                continue
            magnitude = self._sample_magnitude(rng)
            resampling = SMOOTH_FILTERS[rng.integers(len(SMOOTH_FILTERS))]
            options = FillOptions(_fill_per_channel(self.fill, image), resampling)
            bands = ops[name].apply(bands, magnitude, rng, options)
        return from_bands(bands)

    def _sample_magnitude(self, rng: np.random.Generator) -> float:
        if math.isinf(self.magnitude_std):
            return rng.uniform(0, self.magnitude)
        sampled = rng.normal(self.magnitude, self.magnitude_std)
        return min(max(sampled, 0.0), self.max_magnitude)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """AutoAugment with its ImageNet policy: one of 25 pairs of operations (Cubuk et al. 2019)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        bands = to_bands(image)
        options = FillOptions(_fill_per_channel(self.fill, image))
        for name, probability, magnitude in SUBPOLICIES[int(rng.integers(len(SUBPOLICIES)))]:
            if rng.random() < probability:
                bands = AUTOAUGMENT_OPS[name].apply(bands, float(magnitude), rng, options)
        return from_bands(bands)


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugment (Müller & Hutter 2021): one of 14 operations at one of 31 magnitudes.

    Both are sampled uniformly.
    """

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        op = TRIVIALAUGMENT_OPS[_sample_name(tuple(TRIVIALAUGMENT_OPS), rng)]
        magnitude = int(rng.integers(31)) / 3
        options = FillOptions(_fill_per_channel(self.fill, image))
        return from_bands(op.apply(to_bands(image), magnitude, rng, options))


@dataclasses.dataclass(frozen=True)
class ThreeAugment:
    """3-Augment: grayscale, solarize or blur (Touvron et al. 2022, DeiT III, section 3.3)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        radius = rng.uniform(0.1, 2.0)
        choices = (("desaturate", 0.0), ("solarize", 128.0), ("blur", radius))
        name, strength = choices[rng.integers(len(choices))]
        options = FillOptions(_fill_per_channel(self.fill, image))
        return from_bands(OPERATIONS[name](to_bands(image), strength, options))


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Scales brightness, contrast and colour, in random order, as torchvision's ColorJitter does.

    Each factor is sampled uniformly from [max(0, 1 - strength), 1 + strength]. The hue is not
    changed.
    """

    strength: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        bands = to_bands(image)
        options = FillOptions(_fill_per_channel(GREY, image))
        for name in rng.permutation(["brightness", "contrast", "color"]):
            factor = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength)
            bands = OPERATIONS[name](bands, factor, options)
        return from_bands(bands)


POLICIES: Mapping[str, Callable[..., Any]] = {
    "autoaugment": AutoAugment,
    "trivialaugment": TrivialAugment,
    "3-augment": ThreeAugment,
}
FORMS = (*POLICIES, "randaug(2,15)", "rand-m9-mstd0.5-inc1")
# The settings in timm's names: the field of `TimmRandAugment`, and the conversion of its value.
TIMM_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "m": ("magnitude", float),
    "mstd": ("magnitude_std", lambda text: float(text) if float(text) <= 100 else math.inf),
    "mmax": ("max_magnitude", float),
    "n": ("num_layers", int),
    "p": ("probability", float),
    "inc": ("increasing", lambda text: bool(int(text))),
}


def parse_policy(text: str, fill: Sequence[int] = GREY) -> Any:
    """Return the policy with a name.

    Args:
      text: `autoaugment`, `trivialaugment`, `3-augment`, `randaug(LAYERS,MAGNITUDE)` (big_vision),
        or timm's `rand-m9-mstd0.5-inc1` with any of the settings m, mstd, mmax, n, p and inc.
      fill: Value of pixels outside the image, 0 to 255: one per channel, or one for all channels.
        `randaug` always fills with grey, as in big_vision.

    Raises:
      ConfigError: The name is unknown.
    """
    if text in POLICIES:
        return POLICIES[text](fill=fill)
    if match := re.fullmatch(r"randaug\((\d+), *([\d.]+)\)", text):
        return RandAugment(int(match[1]), float(match[2]))
    fields = _timm_fields(text)
    if fields is None:
        raise ConfigError("config.data.augment", f"unknown '{text}'; {suggest(text, FORMS)}")
    return TimmRandAugment(fill=fill, **fields)


def _timm_fields(text: str) -> dict[str, Any] | None:
    """Parse a name of timm's RandAugment; return the fields, or None if it is another name."""
    head, *settings = text.split("-")
    fields = {}
    for setting in settings:
        match = re.fullmatch(r"([a-z]+)(\d+|\d+\.\d+|inf)", setting)
        if not match or match[1] not in TIMM_FIELDS:
            return None
        name, convert = TIMM_FIELDS[match[1]]
        try:
            fields[name] = convert(match[2])
        except ValueError:
            return None
    return fields if head == "rand" else None
