"""Position embeddings, for grids of any size.

Each acts at one `site` of a model: on the `tokens` before the encoder, as a `rotary` of queries and
keys, as a `bias` of the scores, after the `first_block`, or nowhere.
"""

from typing import ClassVar

from vit_jax.models.layers.posemb.absolute import Learned, SinCos2d
from vit_jax.models.layers.posemb.conditional import Conditional
from vit_jax.models.layers.posemb.interpolation import POSEMB_INTERPOLATIONS, resample
from vit_jax.models.layers.posemb.relative import LogSpacedBias, RelativeBias
from vit_jax.models.layers.posemb.rotary import AxialRotary, MixedRotary
from vit_jax.models.parts import Component

__all__ = ["POSEMBS", "POSEMB_INTERPOLATIONS", "NoPositions", "resample"]


class NoPositions(Component):
    """No position embedding: the tokens are a set."""

    cost: ClassVar[str] = "none"

    site: ClassVar[str] = ""


POSEMBS: dict[str, type[Component]] = {
    "learned": Learned,
    "sincos2d": SinCos2d,
    "rope": AxialRotary,
    "rope_mixed": MixedRotary,
    "relative_bias": RelativeBias,
    "log_cpb": LogSpacedBias,
    "conditional": Conditional,
    "none": NoPositions,
}
