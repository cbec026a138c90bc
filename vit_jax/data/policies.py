"""Augmentation policies: which operations an image gets, and how strong, drawn at random.

Each is a frozen dataclass called as `policy(image, rng)` on uint8 (h, w, c). `parse_policy` reads
the names that papers and other libraries write: `randaug(2,15)`, `rand-m9-mstd0.5-inc1`,
`autoaugment`, `trivialaugment`, `3-augment`. The tables of operations are in `policy_ops`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.operations import OPERATIONS, FillOptions, cutout, join, split
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


def _pick(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


def _fill(fill: Sequence[int], image: np.ndarray) -> tuple[int, ...]:
    """Return a fill for each channel; a single number is for all of them."""
    if len(fill) == 1:
        return tuple(fill) * image.shape[-1]
    return tuple(fill)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """A sequence of operations, each sampled uniformly from 16, at one magnitude.

    Cubuk et al. 2020, as Google's AugReg and big_vision use it: on TensorFlow's scale, where each
    operation is always applied, and where a magnitude above 10 turns Solarize off and makes
    Posterize weaker. Contrast is Pillow's, about the mean; the TensorFlow code blends with an
    almost white image.
    """

    num_layers: int
    magnitude: float
    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        bands = split(image)
        options = FillOptions(_fill(self.fill, image))
        for _ in range(self.num_layers):
            name = _pick((*RANDAUGMENT_OPS, "Cutout"), rng)
            if name == "Cutout":
                height, width = image.shape[:2]
                centre = int(rng.integers(height)), int(rng.integers(width))
                bands = cutout(bands, cutout_half_side(self.magnitude), centre, options)
            else:
                bands = RANDAUGMENT_OPS[name].apply(bands, self.magnitude, rng, options)
        return join(bands)


@dataclasses.dataclass(frozen=True)
class TimmRandAugment:
    """RandAugment as timm, DeiT and Swin use it: `rand-m9-mstd0.5-inc1`.

    Each of the operations is applied with a probability, at a magnitude drawn around the given one;
    with `increasing`, a larger magnitude is a stronger change for all of them.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.0  # infinite: uniform from 0 to the magnitude
    increasing: bool = False
    num_layers: int = 2
    probability: float = 0.5
    max_magnitude: float = 10.0
    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        ops = TIMM_INCREASING_OPS if self.increasing else TIMM_OPS
        bands = split(image)
        for _ in range(self.num_layers):
            name = _pick(tuple(ops), rng)
            if rng.random() >= self.probability:
                continue
            magnitude = self._sample_magnitude(rng)
            resampling = SMOOTH_FILTERS[rng.integers(len(SMOOTH_FILTERS))]
            options = FillOptions(_fill(self.fill, image), resampling)
            bands = ops[name].apply(bands, magnitude, rng, options)
        return join(bands)

    def _sample_magnitude(self, rng: np.random.Generator) -> float:
        if math.isinf(self.magnitude_std):
            return rng.uniform(0, self.magnitude)
        drawn = rng.normal(self.magnitude, self.magnitude_std)
        return min(max(drawn, 0.0), self.max_magnitude)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of 25 pairs of operations that were found on ImageNet (Cubuk et al. 2019)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        bands = split(image)
        options = FillOptions(_fill(self.fill, image))
        for name, probability, magnitude in SUBPOLICIES[int(rng.integers(len(SUBPOLICIES)))]:
            if rng.random() < probability:
                bands = AUTOAUGMENT_OPS[name].apply(bands, float(magnitude), rng, options)
        return join(bands)


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation of 14, at one of 31 magnitudes, both sampled uniformly.

    Müller & Hutter 2021.
    """

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        op = TRIVIALAUGMENT_OPS[_pick(tuple(TRIVIALAUGMENT_OPS), rng)]
        magnitude = int(rng.integers(31)) / 3
        options = FillOptions(_fill(self.fill, image))
        return join(op.apply(split(image), magnitude, rng, options))


@dataclasses.dataclass(frozen=True)
class ThreeAugment:
    """Grey, solarized or blurred: one of the three (Touvron et al. 2022, DeiT III, section 3.3)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        radius = rng.uniform(0.1, 2.0)
        choices = (("desaturate", 0.0), ("solarize", 128.0), ("blur", radius))
        name, strength = choices[rng.integers(len(choices))]
        options = FillOptions(_fill(self.fill, image))
        return join(OPERATIONS[name](split(image), strength, options))


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and colour by factors sampled uniformly from 1 +- strength.

    No factor is below 0, and the order is random, as in torchvision's ColorJitter without hue.
    """

    strength: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the augmented image, uint8 of the same shape."""
        bands = split(image)
        options = FillOptions(_fill(GREY, image))
        for name in rng.permutation(["brightness", "contrast", "color"]):
            factor = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength)
            bands = OPERATIONS[name](bands, factor, options)
        return join(bands)


POLICIES: Mapping[str, Callable[..., Any]] = {
    "autoaugment": AutoAugment,
    "trivialaugment": TrivialAugment,
    "3-augment": ThreeAugment,
}
FORMS = (*POLICIES, "randaug(2,15)", "rand-m9-mstd0.5-inc1")
# What follows each letter of timm's form, and the field that it sets.
TIMM_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "m": ("magnitude", float),
    "mstd": ("magnitude_std", lambda text: float(text) if float(text) <= 100 else math.inf),
    "mmax": ("max_magnitude", float),
    "n": ("num_layers", int),
    "p": ("probability", float),
    "inc": ("increasing", lambda text: bool(int(text))),
}


def parse_policy(text: str, fill: Sequence[int] = GREY) -> Any:
    """Return the policy of a name.

    Args:
      text: `autoaugment`, `trivialaugment`, `3-augment`; `randaug(LAYERS,MAGNITUDE)` as big_vision
        writes it; `rand-m9-mstd0.5-inc1` as timm does, with the parts m, mstd, mmax, n, p and inc.
      fill: The value of pixels that come from outside the image, 0 to 255: one for each channel,
        or one for all. `randaug` is always filled with grey, as in big_vision.

    Raises:
      ConfigError: No policy has such a name.
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
    """Return the fields that timm's form of RandAugment sets; None where it is another form."""
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
