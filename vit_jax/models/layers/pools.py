"""Pools: reduce the tokens of an image to one vector.

Each entry of `POOLS` is called with the tokens (b, n, d) and the number of prefix tokens.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.activations import ACTIVATIONS
from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.parts import Component, fixed


class Pool(Component):
    """Base class of pools, with the fields that the model sets."""

    num_heads: int
    mlp_dim: int
    norm_eps: float = 1e-6
    dtype: str = "float32"
    fc_norm: bool = fixed(False, "final norm after the pool instead of before it")

    reads_class_token: ClassVar[bool] = False  # whether the model needs a class token


class ClassToken(Pool):
    """The class token (Dosovitskiy et al. 2021, eq. 4)."""

    cost: ClassVar[str] = "a token"

    reads_class_token: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the class token, which is the first token."""
        return tokens[:, 0]


class GlobalAverage(Pool):
    """Global average pooling: the mean of the patch tokens, without prefix tokens."""

    cost: ClassVar[str] = "none"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the mean of the patch tokens."""
        return jnp.mean(tokens[:, num_prefix:], axis=1)


class ClassTokenAndAverage(Pool):
    """Class token and mean of the patch tokens, concatenated (Oquab et al. 2023, DINOv2)."""

    cost: ClassVar[str] = "a token, and a head of twice the width"

    reads_class_token: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b 2*d"]:
        """Return the class token, then the mean, along the last dimension."""
        return jnp.concatenate([tokens[:, 0], jnp.mean(tokens[:, num_prefix:], axis=1)], axis=-1)


class MultiheadAttention(Pool):
    """Attention pooling: one learned query, the probe, attends to the patch tokens.

    Zhai et al. 2022, section 3.2; Lee et al. 2019.
    """

    cost: ClassVar[str] = "about a block, for one query"

    activation: str = fixed("gelu", "activation of the pool's MLP", choices=ACTIVATIONS)

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], num_prefix: int, *, train: bool
    ) -> Float[Array, "b d"]:
        """Return the output of the probe after a residual feed-forward network."""
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
