"""Biases of the attention scores by relative place.

Entries are called with a number of heads, and return the bias for a grid, (heads, p + n, p + n).
Prefix tokens have no place: there is one bias a head to them, one from them, one among them (Bao et
al. 2022, BEiT).
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb.interpolation import resample, stored


class Relative(nn.Module):
    """The fields of both kinds, and how a table of offsets becomes a bias."""

    num_heads: int
    interpolation: str = "bicubic"  # of a table for another grid than that of the weights
    antialias: bool = True
    pretrained_window: int = 0  # side whose offsets the weights know, where it is not the grid's

    @nn.compact
    def __call__(self, height: int, width: int, num_prefix: int) -> Float[Array, "heads n n"]:
        """Returns the bias from query (first) to key (last)."""
        table = self._table(2 * height - 1, 2 * width - 1)
        rows, columns = (
            np.arange(size)[:, None] - np.arange(size) + size - 1 for size in (height, width)
        )
        bias = table[rows[:, None, :, None], columns[None, :, None, :]]
        num = height * width
        bias = bias.reshape(num, num, -1).transpose(2, 0, 1)
        if not num_prefix:
            return bias
        ends: Any = self.param(
            "prefix",
            nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "heads")),
            (3, self.num_heads),
            jnp.float32,
        )
        to, of, among = (
            jnp.broadcast_to(end[:, None, None], (self.num_heads, *shape))
            for end, shape in zip(
                ends,
                [(num, num_prefix), (num_prefix, num), (num_prefix, num_prefix)],
                strict=True,
            )
        )
        return jnp.block([[among, of], [to, bias]])

    def _table(self, height: int, width: int) -> Array:
        """Returns the bias of each offset, (height, width, heads)."""
        raise NotImplementedError


class RelativeBias(Relative):
    """A learned bias for each offset of row and column (Liu et al. 2021, Swin, eq. 4).

    The table of the parameter is that of the grid it was initialized with; for another grid it is
    resampled.
    """

    def _table(self, height: int, width: int) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, None, "heads"))
        table = stored(self, "table", init, (height, width, self.num_heads))
        return resample(table, height, width, self.interpolation, self.antialias)


class LogSpacedBias(Relative):
    """A network of the offsets on a logarithmic scale (Liu et al. 2022, Swin v2, section 3.3).

    Offsets are counted in the sides of the window that the weights know, so that nothing has to be
    resampled.
    """

    hidden_dim: int = 512

    def _table(self, height: int, width: int) -> Array:
        places = np.stack(np.meshgrid(*map(self._scale, (height, width)), indexing="ij"), axis=-1)
        up = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, "mlp"))
        down = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("mlp", "heads"))
        dense = functools.partial(nn.Dense, use_bias=False)
        x = nn.Dense(self.hidden_dim, kernel_init=up, name="fc1")(jnp.asarray(places))
        return 16 * nn.sigmoid(dense(self.num_heads, kernel_init=down, name="fc2")(nn.relu(x)))

    def _scale(self, num_offsets: int) -> np.ndarray:
        largest = num_offsets // 2
        known = self.pretrained_window - 1 if self.pretrained_window else largest
        x = 8 * np.arange(-largest, largest + 1) / max(1, known)
        return np.sign(x) * np.log2(np.abs(x) + 1) / np.log2(8)
