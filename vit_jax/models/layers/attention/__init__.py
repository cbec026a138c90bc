"""Multi-head self-attention, by name.

Each entry of `ATTENTIONS` is a linen module. Its docstring cites the source, and its class
attribute `cost` states how the compute time scales with the number of tokens n.
"""

from vit_jax.models.layers.attention.base import Attention
from vit_jax.models.layers.attention.full import AutoAttention, FullAttention, FusedAttention
from vit_jax.models.layers.attention.linear import LinearAttention
from vit_jax.models.layers.attention.low_rank import (
    Linformer,
    NystromAttention,
    ReducedAttention,
)
from vit_jax.models.layers.attention.window import DilatedAttention, WindowAttention

ATTENTIONS: dict[str, type[Attention]] = {
    "auto": AutoAttention,
    "full": FullAttention,
    "fused": FusedAttention,
    "window": WindowAttention,
    "dilated": DilatedAttention,
    "linformer": Linformer,
    "nystrom": NystromAttention,
    "reduced": ReducedAttention,
    "linear": LinearAttention,
}
