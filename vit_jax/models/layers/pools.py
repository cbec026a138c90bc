"""Pools: from the tokens of an image to one vector.

All entries of `POOLS` have the same fields, and are called with the tokens and the number of prefix
tokens.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.mlp import Mlp


class Pool(nn.Module):
    """The fields of all pools; only `map` uses them."""

    num_heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-6
    dtype: str = "float32"


class ClassToken(Pool):
    """The class token (Dosovitskiy et al. 2021, eq. 4)."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the first token."""
        return tokens[:, 0]


class GlobalAverage(Pool):
    """The mean of the patch tokens, without class token and registers."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the mean."""
        return jnp.mean(tokens[:, num_prefix:], axis=1)


class ClassTokenAndAverage(Pool):
    """Class token and mean of the patch tokens, concatenated (as in DINOv2's linear classifier)."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b 2*d"]:
        """Return both, the class token first."""
        return jnp.concatenate([tokens[:, 0], jnp.mean(tokens[:, num_prefix:], axis=1)], axis=-1)


class MultiheadAttention(Pool):
    """A learned probe that attends to all tokens (Zhai et al. 2022, 3.2; Lee et al. 2019)."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the probe's output, after a residual feed-forward network."""
        batch, _, width = tokens.shape
        init = nn.initializers.xavier_uniform()
        probe = self.param("probe", init, (1, 1, width), jnp.float32)
        probe = jnp.tile(probe.astype(tokens.dtype), (batch, 1, 1))
        attention = CrossAttention(self.num_heads, dtype=self.dtype, name="attn")
        x = attention(probe, tokens)
        y = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(x)
        mlp = Mlp(self.mlp_dim, self.activation, dtype=self.dtype, name="mlp")
        return (x + mlp(y, train=train))[:, 0]


POOLS: dict[str, type[Pool]] = {
    "cls": ClassToken,
    "gap": GlobalAverage,
    "cls_gap": ClassTokenAndAverage,
    "map": MultiheadAttention,
}

# Pools that need a class token.
READ_CLASS_TOKEN = ("cls", "cls_gap")
