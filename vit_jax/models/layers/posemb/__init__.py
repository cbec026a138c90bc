"""Position embeddings, for grids of any size."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from vit_jax.models.layers.posemb.absolute import Learned, SinCos2d
from vit_jax.models.layers.posemb.conditional import Conditional
from vit_jax.models.layers.posemb.interpolation import POSEMB_INTERPOLATIONS, resample
from vit_jax.models.layers.posemb.relative import LogSpacedBias, RelativeBias
from vit_jax.models.layers.posemb.rotary import AxialRotary, MixedRotary

__all__ = ["POSEMBS", "POSEMB_INTERPOLATIONS", "PositionEmbedding", "resample"]

Part = Callable[..., nn.Module]


class PositionEmbedding(NamedTuple):
    """Where a position embedding acts: constructors of modules, most of them absent."""

    absolute: Part | None = None  # added to the tokens before the encoder
    rotary: Part | None = None  # rotates queries and keys of every attention
    bias: Part | None = None  # added to the scores of every attention
    conditional: Part | None = None  # added to the tokens after the first block


POSEMBS: dict[str, PositionEmbedding] = {
    "none": PositionEmbedding(),
    "learned": PositionEmbedding(absolute=Learned),
    "sincos2d": PositionEmbedding(absolute=SinCos2d),
    "rope": PositionEmbedding(rotary=AxialRotary),
    "rope_mixed": PositionEmbedding(rotary=MixedRotary),
    "relative_bias": PositionEmbedding(bias=RelativeBias),
    "log_cpb": PositionEmbedding(bias=LogSpacedBias),
    "conditional": PositionEmbedding(conditional=Conditional),
}
