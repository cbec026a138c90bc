"""Pools: from the tokens of an image to its one vector.

Every entry of `POOLS` has the same fields, and is called with the tokens and how many of them come
before the patches.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.mlp import Mlp


class Pool(nn.Module):
    """The fields that every pool has; only `map` uses them."""

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
        """Returns the first token."""
        return tokens[:, 0]


class GlobalAverage(Pool):
    """The mean of the patch tokens; class token and registers do not count."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Returns the mean."""
        return jnp.mean(tokens[:, num_prefix:], axis=1)


class ClassTokenAndAverage(Pool):
    """Class token and mean of the patches, one after the other (DINOv2's linear classifier)."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b 2*d"]:
        """Returns both."""
        return jnp.concatenate([tokens[:, 0], jnp.mean(tokens[:, num_prefix:], axis=1)], axis=-1)


class MultiheadAttention(Pool):
    """A learned probe that attends to all tokens (Zhai et al. 2022, 3.2; Lee et al. 2019)."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Returns the probe's output and its feed-forward residual."""
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

# Those that read a class token, so that there must be one.
READ_CLASS_TOKEN = ("cls", "cls_gap")
