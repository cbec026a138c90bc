"""Multi-head attention; all entries of `ATTENTIONS` are modules with the same fields.

The docstring of an entry says what it computes and cites its source; `cost` says how its time grows
with the number of tokens n.
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
