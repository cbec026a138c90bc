"""Position embeddings, for patch grids of any size.

The class attribute `site` of an entry of `POSEMBS` says where in the model it acts: `tokens` (added
to the tokens before the encoder), `rotary` (rotates queries and keys), `bias` (added to the
attention scores), `first_block` (applied after the first block) or an empty string (nowhere).
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
    """No position embedding."""

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
