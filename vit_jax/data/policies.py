"""Augmentation policies: which operations an image gets, and how strong, drawn at random.

Each is a frozen dataclass called as `policy(image, rng)` on uint8 (h, w, c). `parse` reads the
names that papers and other libraries write: `randaug(2,15)`, `rand-m9-mstd0.5-inc1`,
`autoaugment`, `trivialaugment`, `3-augment`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.operations import OPERATIONS, Bands, Canvas, cutout, join, split
from vit_jax.errors import ConfigError, suggest

GREY = (128,)

Level = Callable[[float], float]  # from a magnitude, of which 10 is the scale, to a strength


@dataclasses.dataclass(frozen=True)
class Kind:
    """An operation under a policy's name, and its strength at a magnitude."""

    operation: str
    level: Level = float
    signed: bool = False  # half of the time the level is negative
    around: float = 0.0  # what the level is added to
    least: float = -math.inf  # strength


def _times(most: float) -> Level:
    return lambda magnitude: magnitude / 10 * most


def _whole(most: float) -> Level:
    return lambda magnitude: float(int(magnitude / 10 * most))


def _enhance(magnitude: float) -> float:
    return magnitude / 10 * 1.8 + 0.1


# Of AutoAugment (Cubuk et al. 2019, table 6) and the TF form of RandAugment.
KINDS = {
    "AutoContrast": Kind("autocontrast"),
    "Equalize": Kind("equalize"),
    "Invert": Kind("invert"),
    "Rotate": Kind("rotate", _times(30.0), signed=True),
    "Posterize": Kind("posterize", _whole(4.0)),
    "Solarize": Kind("solarize", _whole(256.0)),
    "SolarizeAdd": Kind("solarize_add", _whole(110.0)),
    "Color": Kind("color", _enhance),
    "Contrast": Kind("contrast", _enhance),
    "Brightness": Kind("brightness", _enhance),
    "Sharpness": Kind("sharpness", _enhance),
    "ShearX": Kind("shear_x", _times(0.3), signed=True),
    "ShearY": Kind("shear_y", _times(0.3), signed=True),
    "TranslateX": Kind("translate_x", _times(100.0), signed=True),
    "TranslateY": Kind("translate_y", _times(100.0), signed=True),
}
ENHANCEMENTS = ("Color", "Contrast", "Brightness", "Sharpness")
CUTOUT = 40  # half of the side at magnitude 10

# Of timm's RandAugment; the first without `inc1`, the second with it.
TIMM_KINDS = {
    **{name: kind for name, kind in KINDS.items() if not name.startswith("Translate")},
    "SolarizeAdd": Kind("solarize_add", lambda magnitude: min(128.0, _whole(110.0)(magnitude))),
    "TranslateXRel": Kind("translate_x_share", _times(0.45), signed=True),
    "TranslateYRel": Kind("translate_y_share", _times(0.45), signed=True),
}
TIMM_INCREASING_KINDS = {
    **TIMM_KINDS,
    "Posterize": Kind("posterize", lambda magnitude: 4 - _whole(4.0)(magnitude)),
    "Solarize": Kind("solarize", lambda magnitude: 256 - _whole(256.0)(magnitude)),
    **{
        name: Kind(name.lower(), _times(0.9), signed=True, around=1.0, least=0.1)
        for name in ENHANCEMENTS
    },
}


def _apply(
    kind: Kind, bands: Bands, magnitude: float, rng: np.random.Generator, canvas: Canvas
) -> Bands:
    level = kind.level(magnitude)
    if kind.signed and rng.random() < 0.5:
        level = -level
    return OPERATIONS[kind.operation](bands, max(kind.around + level, kind.least), canvas)


def _pick(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]


def _fill(fill: Sequence[int], image: np.ndarray) -> tuple[int, ...]:
    """Returns a fill for each channel; one number is for all."""
    return tuple(fill) * (image.shape[-1] if len(fill) == 1 else 1)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Operations in a row, each drawn evenly from 16, at one magnitude (Cubuk et al. 2020).

    As Google's AugReg and big_vision train with it: in TensorFlow's scale, where each operation is
    always applied, and where a magnitude above 10 turns Solarize off and makes Posterize weaker.
    Contrast is Pillow's, about the mean; the TensorFlow code blends with an almost white image.
    """

    num_layers: int
    magnitude: float
    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        bands, canvas = split(image), Canvas(_fill(self.fill, image))
        for _ in range(self.num_layers):
            name = _pick((*KINDS, "Cutout"), rng)
            if name == "Cutout":
                height, width = image.shape[:2]
                centre = int(rng.integers(height)), int(rng.integers(width))
                bands = cutout(bands, int(_times(float(CUTOUT))(self.magnitude)), centre, canvas)
            else:
                bands = _apply(KINDS[name], bands, self.magnitude, rng, canvas)
        return join(bands)


@dataclasses.dataclass(frozen=True)
class TimmRandAugment:
    """RandAugment as timm, DeiT and Swin train with it: `rand-m9-mstd0.5-inc1`.

    Each of the operations is applied with a probability, at a magnitude drawn around the given one;
    with `increasing`, a larger magnitude is a stronger change for all of them.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.0  # infinite: evenly from 0 to the magnitude
    increasing: bool = False
    num_layers: int = 2
    probability: float = 0.5
    max_magnitude: float = 10.0
    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        kinds = TIMM_INCREASING_KINDS if self.increasing else TIMM_KINDS
        bands = split(image)
        for _ in range(self.num_layers):
            name = _pick(tuple(kinds), rng)
            if rng.random() >= self.probability:
                continue
            magnitude = self._draw(rng)
            smooth = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
            canvas = Canvas(_fill(self.fill, image), smooth[rng.integers(2)])
            bands = _apply(kinds[name], bands, magnitude, rng, canvas)
        return join(bands)

    def _draw(self, rng: np.random.Generator) -> float:
        if math.isinf(self.magnitude_std):
            return rng.uniform(0, self.magnitude)
        drawn = rng.normal(self.magnitude, self.magnitude_std)
        return min(max(drawn, 0.0), self.max_magnitude)


# Of each pair: operation, probability, magnitude (Cubuk et al. 2019, table 9, ImageNet).
SUBPOLICIES = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
# In the paper a posterized image keeps 4 to 8 bits.
PAPER_KINDS = {
    **KINDS,
    "Posterize": Kind("posterize", lambda magnitude: 4 + _whole(4.0)(magnitude)),
}


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of 25 pairs of operations that were found on ImageNet (Cubuk et al. 2019)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        bands, canvas = split(image), Canvas(_fill(self.fill, image))
        for name, probability, magnitude in SUBPOLICIES[int(rng.integers(len(SUBPOLICIES)))]:
            if rng.random() < probability:
                bands = _apply(PAPER_KINDS[name], bands, float(magnitude), rng, canvas)
        return join(bands)


# Müller & Hutter 2021, table 3, "wide"; a magnitude is one of 31 from 0 to 10.
WIDE_KINDS = {
    "Identity": Kind("identity"),
    "AutoContrast": Kind("autocontrast"),
    "Equalize": Kind("equalize"),
    "Rotate": Kind("rotate", _times(135.0), signed=True),
    "Solarize": Kind("solarize", lambda magnitude: 256 - _times(256.0)(magnitude)),
    "Posterize": Kind("posterize", lambda magnitude: 8.0 - round(_times(6.0)(magnitude))),
    **{name: Kind(name.lower(), _times(0.99), signed=True, around=1.0) for name in ENHANCEMENTS},
    "ShearX": Kind("shear_x", _times(0.99), signed=True),
    "ShearY": Kind("shear_y", _times(0.99), signed=True),
    "TranslateX": Kind("translate_x", _times(32.0), signed=True),
    "TranslateY": Kind("translate_y", _times(32.0), signed=True),
}


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation of 14, at any strength, both drawn evenly (Müller & Hutter 2021)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        name, magnitude = _pick(tuple(WIDE_KINDS), rng), int(rng.integers(31)) / 3
        canvas = Canvas(_fill(self.fill, image))
        return join(_apply(WIDE_KINDS[name], split(image), magnitude, rng, canvas))


@dataclasses.dataclass(frozen=True)
class ThreeAugment:
    """Grey, solarized or blurred: one of the three (Touvron et al. 2022, DeiT III, section 3.3)."""

    fill: Sequence[int] = GREY

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        radius = rng.uniform(0.1, 2.0)
        choices = (("desaturate", 0.0), ("solarize", 128.0), ("blur", radius))
        name, strength = choices[rng.integers(len(choices))]
        return join(OPERATIONS[name](split(image), strength, Canvas(_fill(self.fill, image))))


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and colour by factors from 1 - strength to 1 + strength.

    In random order, as torchvision's ColorJitter without hue does.
    """

    strength: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        bands, canvas = split(image), Canvas(_fill(GREY, image))
        for name in rng.permutation(["brightness", "contrast", "color"]):
            factor = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength)
            bands = OPERATIONS[name](bands, factor, canvas)
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
    "mstd": ("magnitude_std", float),
    "mmax": ("max_magnitude", float),
    "n": ("num_layers", int),
    "p": ("probability", float),
    "inc": ("increasing", lambda text: bool(int(text))),
}


def parse(text: str, fill: Sequence[int] = GREY) -> Any:
    """Returns the policy of a name.

    Args:
      text: `autoaugment`, `trivialaugment`, `3-augment`; `randaug(LAYERS,MAGNITUDE)` as big_vision
        writes it; `rand-m9-mstd0.5-inc1` as timm does, with the parts m, mstd, mmax, n, p and inc.
      fill: What the outside of a moved image is filled with, 0 to 255 a channel, or one for all;
        that of `randaug` is always grey, as where it comes from.

    Raises:
      ConfigError: No policy has such a name.
    """
    if text in POLICIES:
        return POLICIES[text](fill=fill)
    if found := re.fullmatch(r"randaug\((\d+), *([\d.]+)\)", text):
        return RandAugment(int(found[1]), float(found[2]))
    fields = _timm_fields(text)
    if fields is None:
        raise ConfigError("config.data.augment", f"unknown '{text}'; {suggest(text, FORMS)}")
    return TimmRandAugment(fill=fill, **fields)


def _timm_fields(text: str) -> dict[str, Any] | None:
    """Returns the fields that timm's form of RandAugment sets; None where it is another form."""
    head, *parts = text.split("-")
    fields = {}
    for part in parts:
        found = re.fullmatch(r"([a-z]+)(\d+|\d+\.\d+|inf)", part)
        if not found or found[1] not in TIMM_FIELDS:
            return None
        name, read = TIMM_FIELDS[found[1]]
        try:
            fields[name] = read(found[2])
        except ValueError:
            return None
    return fields if head == "rand" else None
