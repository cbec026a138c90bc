"""Position embeddings computed from the tokens."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid
from vit_jax.models.parts import Component


class Conditional(Component):
    """A residual depthwise 3x3 convolution of the patches (Chu et al. 2021, CPVT, section 3.2).

    The zero padding carries the position information. Prefix tokens are unchanged.
    """

    cost: ClassVar[str] = "10 d parameters, 9 n d multiplications"

    dtype: str = "float32"

    site: ClassVar[str] = "first_block"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], grid: Grid) -> Float[Array, "b n d"]:
        """Add the convolution of its neighbourhood to each patch token."""
        batch, _, dim = x.shape
        height, width, num_prefix = grid
        end = grid.num_tokens  # padding may follow
        patches = x[:, num_prefix:end].reshape(batch, height, width, dim)
        conv = nn.Conv(
            dim,
            (3, 3),
            padding=1,
            feature_group_count=dim,  # the kernel is small, so that it is replicated, not sharded
            dtype=self.dtype,
            name="conv",
        )
        y = conv(patches).reshape(batch, height * width, dim)
        patches = x[:, num_prefix:end] + y
        return jnp.concatenate([x[:, :num_prefix], patches, x[:, end:]], axis=1)
