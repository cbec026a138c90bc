"""Pools: from the tokens of an image to one vector.

All entries of `POOLS` are called with the tokens and the number of prefix tokens.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.mlp import ACTIVATIONS, Mlp
from vit_jax.models.parts import Component, fixed


class Pool(Component):
    """What a model tells its pool."""

    num_heads: int
    mlp_dim: int
    norm_eps: float = 1e-6
    dtype: str = "float32"
    fc_norm: bool = fixed(False, "the model's last norm comes after the pool instead of before")

    reads_class_token: ClassVar[bool] = False


class ClassToken(Pool):
    """The class token (Dosovitskiy et al. 2021, eq. 4)."""

    cost: ClassVar[str] = "a token"

    reads_class_token: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the first token."""
        return tokens[:, 0]


class GlobalAverage(Pool):
    """The mean of the patch tokens, without class token and registers."""

    cost: ClassVar[str] = "none"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the mean."""
        return jnp.mean(tokens[:, num_prefix:], axis=1)


class ClassTokenAndAverage(Pool):
    """Class token and mean of the patch tokens, concatenated (as in DINOv2's linear classifier)."""

    cost: ClassVar[str] = "a token, and a head of twice the width"

    reads_class_token: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b 2*d"]:
        """Return both, the class token first."""
        return jnp.concatenate([tokens[:, 0], jnp.mean(tokens[:, num_prefix:], axis=1)], axis=-1)


class MultiheadAttention(Pool):
    """A learned probe that attends to the patch tokens (Zhai et al. 2022, 3.2; Lee et al. 2019)."""

    cost: ClassVar[str] = "about a block, for one query"

    activation: str = fixed("gelu", "activation of the pool's MLP", choices=ACTIVATIONS)

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
        x = attention(probe, tokens[:, num_prefix:])
        y = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(x)
        mlp = Mlp(self.mlp_dim, activation=self.activation, dtype=self.dtype, name="mlp")
        return (x + mlp(y, train=train))[:, 0]


POOLS: dict[str, type[Pool]] = {
    "cls": ClassToken,
    "gap": GlobalAverage,
    "cls_gap": ClassTokenAndAverage,
    "map": MultiheadAttention,
}
