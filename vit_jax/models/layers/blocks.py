"""Transformer blocks: attention and a feed-forward network, each with a residual connection."""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vit_jax.models.layers.grid import Grid
from vit_jax.models.parts import Component, Constructor, free
from vit_jax.settings.fields import field

# The fraction of the rate `drop_path` that block i of n has.
DROP_PATH_SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": lambda i, n: i / max(n - 1, 1),
    "constant": lambda i, n: 1.0,
}


class LayerScale(nn.Module):
    """A learned factor per channel of a residual branch (Touvron et al. 2021, CaiT, eq. 4)."""

    initial: float  # initial value of the factors

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Multiply each channel by its factor."""
        init = nn.initializers.constant(self.initial)
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        return x * scale.astype(x.dtype)


class Block(Component):
    """Base class of Transformer blocks: their fields, LayerScale and stochastic depth."""

    cost: ClassVar[str] = "none; LayerScale has 2 d parameters a block"

    attention: Constructor
    mlp: Constructor
    norm: Constructor
    factors: Float[Array, "2 b"] | None = None  # of the two residual branches; None: 1
    layer_scale: float = free(0.0, "initial value of LayerScale; 0: off", low=0)
    drop_path: float = field(0.0, "stochastic depth rate of the last block", low=0, below=1)
    drop_path_schedule: str = field(
        "linear",
        "schedule of the stochastic depth rate over the blocks",
        choices=DROP_PATH_SCHEDULES,
    )

    def _scale_and_drop(self, x: Array, index: int) -> Array:
        """Apply LayerScale and stochastic depth to the output of residual branch 1 or 2."""
        if self.layer_scale:
            x = LayerScale(self.layer_scale, name=f"scale{index}")(x)
        if self.factors is None:
            return x
        return (x * self.factors[index - 1, :, None, None]).astype(x.dtype)


class PreNormBlock(Block):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2021, eq. 2 and 3)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply the block to tokens that have the layout `grid`."""
        y = self.attention(name="attn")(self.norm(name="norm1")(x), grid, train=train)
        x = x + self._scale_and_drop(y, 1)
        y = self.mlp(name="mlp")(self.norm(name="norm2")(x), train=train)
        return x + self._scale_and_drop(y, 2)


class PostNormBlock(Block):
    """norm(x + attention(x)), then norm(x + mlp(x)) (Vaswani et al. 2017, section 3.1)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply the block to tokens that have the layout `grid`."""
        y = self.attention(name="attn")(x, grid, train=train)
        x = self.norm(name="norm1")(x + self._scale_and_drop(y, 1))
        y = self.mlp(name="mlp")(x, train=train)
        return self.norm(name="norm2")(x + self._scale_and_drop(y, 2))


class ResidualPostNormBlock(Block):
    """x + norm(attention(x)), then x + norm(mlp(x)) (Liu et al. 2022, Swin v2, section 3.2)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply the block to tokens that have the layout `grid`."""
        y = self.norm(name="norm1")(self.attention(name="attn")(x, grid, train=train))
        x = x + self._scale_and_drop(y, 1)
        y = self.norm(name="norm2")(self.mlp(name="mlp")(x, train=train))
        return x + self._scale_and_drop(y, 2)


BLOCKS: dict[str, type[Block]] = {
    "pre": PreNormBlock,
    "post": PostNormBlock,
    "res_post": ResidualPostNormBlock,
}


def drop_path_rates(rate: float, schedule: str, depth: int) -> tuple[float, ...]:
    """Return the stochastic depth rate of each block.

    Args:
      rate: Rate of the last block.
      schedule: `linear` (from 0 to `rate`) or `constant`.
      depth: Number of blocks.
    """
    return tuple(rate * DROP_PATH_SCHEDULES[schedule](i, depth) for i in range(depth))


def drop_path_factors(
    key: Key[Array, ""], rates: tuple[float, ...], batch: int
) -> Float[Array, "depth 2 b"]:
    """Draw the factors of stochastic depth (Huang et al. 2016), for all blocks at once.

    A factor is 0, which drops the residual branch of an image, with the rate of the block, and
    1 / (1 - rate) otherwise.

    Args:
      key: Random key.
      rates: Rate of each block.
      batch: Number of images.
    """
    keep = 1 - jnp.asarray(rates)[:, None, None]
    return jax.random.bernoulli(key, keep, (len(rates), 2, batch)) / keep
