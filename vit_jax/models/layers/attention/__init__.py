"""Multi-head attention; every entry of `ATTENTIONS` is a module with the same fields.

An entry's docstring says what it computes and where it comes from, `cost` how that grows with the n
tokens.
"""

from vit_jax.models.layers.attention.base import Attention, FullAttention, FusedAttention
from vit_jax.models.layers.attention.linear import LinearAttention
from vit_jax.models.layers.attention.low_rank import (
    Linformer,
    NystromAttention,
    ReducedAttention,
)
from vit_jax.models.layers.attention.window import DilatedAttention, WindowAttention

ATTENTIONS: dict[str, type[Attention]] = {
    "full": FullAttention,
    "fused": FusedAttention,
    "window": WindowAttention,
    "dilated": DilatedAttention,
    "linformer": Linformer,
    "nystrom": NystromAttention,
    "reduced": ReducedAttention,
    "linear": LinearAttention,
}
