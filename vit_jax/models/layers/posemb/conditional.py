"""Positions from the tokens themselves."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid


class Conditional(nn.Module):
    """Adds to each patch a depthwise convolution of its neighbourhood (Chu et al. 2021, CPVT, 3.2).

    The zeros beyond the border tell where it is. Prefix tokens stay as they are.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], grid: Grid) -> Float[Array, "b n d"]:
        """Maps tokens to tokens."""
        batch, _, dim = x.shape
        height, width, num_prefix = grid
        patches = x[:, num_prefix:].reshape(batch, height, width, dim)
        conv = nn.Conv(
            dim,
            (3, 3),
            padding=1,
            feature_group_count=dim,  # on every device whole: it is small
            dtype=self.dtype,
            name="conv",
        )
        y = conv(patches).reshape(batch, height * width, dim)
        return jnp.concatenate([x[:, :num_prefix], x[:, num_prefix:] + y], axis=1)
