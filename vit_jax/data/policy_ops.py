"""The operations of each augmentation policy, with their strength as a function of the magnitude.

Each table maps the names of a paper or a library to an `Op`. Magnitudes are on the papers' scale of
0 to 10. Strengths have the unit of the operation (see `operations`).
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vit_jax.data.operations import OPERATIONS, Bands, FillOptions

Level = Callable[[float], float]  # maps a magnitude to a strength


@dataclasses.dataclass(frozen=True)
class Op:
    """An operation of a policy, and its strength at a magnitude.

    The strength is `max(offset + level(magnitude), min_strength)`. If `signed`, the level is
    negated with probability 0.5.
    """

    operation: str  # a key of OPERATIONS
    level: Level = float
    signed: bool = False  # random sign of the level
    offset: float = 0.0
    min_strength: float = -math.inf

    def apply(
        self, bands: Bands, magnitude: float, rng: np.random.Generator, options: FillOptions
    ) -> Bands:
        """Apply the operation at a magnitude; `rng` is used only for the sign."""
        level = self.level(magnitude)
        if self.signed and rng.random() < 0.5:
            level = -level
        strength = max(self.offset + level, self.min_strength)
        return OPERATIONS[self.operation](bands, strength, options)


def _scaled(largest: float) -> Level:
    """Return the level that grows linearly to `largest` at magnitude 10."""
    return lambda magnitude: magnitude / 10 * largest


def _scaled_int(largest: float) -> Level:
    """Return the same level, rounded towards zero."""
    return lambda magnitude: float(int(magnitude / 10 * largest))


def _enhance_factor(magnitude: float) -> float:
    """Return the factor of a Pillow enhancer: 0.1 at magnitude 0, 1.9 at 10."""
    return magnitude / 10 * 1.8 + 0.1


# RandAugment as in the TensorFlow code, with AutoAugment's strengths (Cubuk et al. 2019, table 6).
RANDAUGMENT_OPS = {
    "AutoContrast": Op("autocontrast"),
    "Equalize": Op("equalize"),
    "Invert": Op("invert"),
    "Rotate": Op("rotate", _scaled(30.0), signed=True),
    "Posterize": Op("posterize", _scaled_int(4.0)),
    "Solarize": Op("solarize", _scaled_int(256.0)),
    "SolarizeAdd": Op("solarize_add", _scaled_int(110.0)),
    "Color": Op("color", _enhance_factor),
    "Contrast": Op("contrast", _enhance_factor),
    "Brightness": Op("brightness", _enhance_factor),
    "Sharpness": Op("sharpness", _enhance_factor),
    "ShearX": Op("shear_x", _scaled(0.3), signed=True),
    "ShearY": Op("shear_y", _scaled(0.3), signed=True),
    "TranslateX": Op("translate_x", _scaled(100.0), signed=True),
    "TranslateY": Op("translate_y", _scaled(100.0), signed=True),
}
ENHANCEMENTS = ("Color", "Contrast", "Brightness", "Sharpness")


def cutout_half_side(magnitude: float) -> int:
    """Return half the side of RandAugment's cutout square in pixels."""
    return int(_scaled(40.0)(magnitude))


# timm's RandAugment without `inc1`.
TIMM_OPS = {
    **{name: op for name, op in RANDAUGMENT_OPS.items() if not name.startswith("Translate")},
    "SolarizeAdd": Op("solarize_add", lambda magnitude: min(128.0, _scaled_int(110.0)(magnitude))),
    "TranslateXRel": Op("translate_x_fraction", _scaled(0.45), signed=True),
    "TranslateYRel": Op("translate_y_fraction", _scaled(0.45), signed=True),
}
# timm's RandAugment with `inc1`: a larger magnitude is a stronger change for every operation.
TIMM_INCREASING_OPS = {
    **TIMM_OPS,
    "Posterize": Op("posterize", lambda magnitude: 4 - _scaled_int(4.0)(magnitude)),
    "Solarize": Op("solarize", lambda magnitude: 256 - _scaled_int(256.0)(magnitude)),
    **{
        name: Op(name.lower(), _scaled(0.9), signed=True, offset=1.0, min_strength=0.1)
        for name in ENHANCEMENTS
    },
}

# AutoAugment as in the paper: Posterize keeps 4 to 8 bits.
AUTOAUGMENT_OPS = {
    **RANDAUGMENT_OPS,
    "Posterize": Op("posterize", lambda magnitude: 4 + _scaled_int(4.0)(magnitude)),
}
# AutoAugment's ImageNet policy: pairs of (operation, probability, magnitude) (Cubuk et al. 2019,
# table 9).
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

# TrivialAugment, "wide" (Müller & Hutter 2021, table 3).
TRIVIALAUGMENT_OPS = {
    "Identity": Op("identity"),
    "AutoContrast": Op("autocontrast"),
    "Equalize": Op("equalize"),
    "Rotate": Op("rotate", _scaled(135.0), signed=True),
    "Solarize": Op("solarize", lambda magnitude: 256 - _scaled(256.0)(magnitude)),
    "Posterize": Op("posterize", lambda magnitude: 8.0 - round(_scaled(6.0)(magnitude))),
    **{name: Op(name.lower(), _scaled(0.99), signed=True, offset=1.0) for name in ENHANCEMENTS},
    "ShearX": Op("shear_x", _scaled(0.99), signed=True),
    "ShearY": Op("shear_y", _scaled(0.99), signed=True),
    "TranslateX": Op("translate_x", _scaled(32.0), signed=True),
    "TranslateY": Op("translate_y", _scaled(32.0), signed=True),
}
