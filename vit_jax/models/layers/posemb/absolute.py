"""Position embeddings that are added to the tokens.

Entries are called as `posemb(num_prefix, ...)(height, width, dim)` and return the embeddings of the
prefix tokens, (p, d), and of the grid, (h, w, d).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb.interpolation import resample, stored

Embedding = tuple[Float[Array, "p d"], Float[Array, "h w d"]]


class Learned(nn.Module):
    """A learned vector for each position of the grid and for each prefix token.

    The parameter has the grid of the images it was initialized with; for images of another size it
    is resampled.
    """

    num_prefix: int
    interpolation: str = "bicubic"
    antialias: bool = True

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Return the embeddings for a grid of this height and width."""
        init = nn.initializers.normal(0.02)
        prefix: Any = jnp.zeros((0, dim))
        if self.num_prefix:
            boxed = nn.with_logical_partitioning(init, (None, "embed"))
            prefix = self.param("prefix", boxed, (self.num_prefix, dim), jnp.float32)
        boxed = nn.with_logical_partitioning(init, (None, None, "embed"))
        grid = stored(self, "grid", boxed, (height, width, dim))
        return prefix, resample(grid, height, width, self.interpolation, self.antialias)


class SinCos2d(nn.Module):
    """Fixed sines and cosines of row and column, a quarter of the channels each.

    As in MoCo v3 (Chen et al. 2021) and the plain ViT baselines (Beyer et al. 2022). The embeddings
    of prefix tokens are zero. The width must be a multiple of 4, at least 8.
    """

    num_prefix: int
    interpolation: str = "bicubic"  # unused: the formula holds for any grid
    antialias: bool = True  # unused
    temperature: float = 10_000.0

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Return the embeddings for a grid of this height and width."""
        quarter = dim // 4
        omega = self.temperature ** (-jnp.arange(quarter) / (quarter - 1))
        rows = jnp.arange(height)[:, None] * omega
        columns = jnp.arange(width)[:, None] * omega
        rows = jnp.broadcast_to(rows[:, None], (height, width, quarter))
        columns = jnp.broadcast_to(columns[None], (height, width, quarter))
        waves = (jnp.sin(columns), jnp.cos(columns), jnp.sin(rows), jnp.cos(rows))
        return jnp.zeros((self.num_prefix, dim)), jnp.concatenate(waves, axis=-1)
