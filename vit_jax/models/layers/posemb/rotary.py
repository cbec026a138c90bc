"""Rotary position embeddings in two dimensions (Su et al. 2021; Heo et al. 2024, section 3).

Each pair of channels of a query or a key is turned by an angle that is linear in its place, so that
their product depends on the difference of the places. Entries are called with a number of heads and
the channels of a head, and map places (n, 2) to angles (n, heads or 1, c / 2). The first place of
the grid is not turned, nor are prefix tokens.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class AxialRotary(nn.Module):
    """Half of the pairs turns with the column, half with the row; the frequencies are fixed."""

    num_heads: int
    head_dim: int  # a multiple of 4
    temperature: float = 100.0

    @nn.compact
    def __call__(self, places: np.ndarray) -> Float[Array, "n 1 c"]:
        """Returns the angles for the places."""
        turns = jnp.asarray(places)[:, :, None] * _frequencies(self.head_dim, self.temperature)
        return jnp.concatenate([turns[:, 1], turns[:, 0]], axis=-1)[:, None]


class MixedRotary(nn.Module):
    """Each pair has a learned frequency for rows and one for columns, in each head."""

    num_heads: int
    head_dim: int  # a multiple of 4
    temperature: float = 10.0

    @nn.compact
    def __call__(self, places: np.ndarray) -> Float[Array, "n heads c"]:
        """Returns the angles for the places."""
        frequencies: Any = self.param(
            "frequencies",
            nn.with_logical_partitioning(self._init, (None, "heads", None)),
            (2, self.num_heads, self.head_dim // 2),
            jnp.float32,
        )
        return jnp.einsum("na,ahc->nhc", jnp.asarray(places, frequencies.dtype), frequencies)

    def _init(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Two directions at a right angle for each frequency; each head is turned by chance."""
        size = _frequencies(self.head_dim, self.temperature)
        angle = nn.initializers.uniform(2 * np.pi)(key, (self.num_heads, 1), dtype)
        angles = jnp.concatenate([angle + 0 * size, angle + np.pi / 2 + 0 * size], axis=-1)
        sizes = jnp.concatenate([size, size])
        return (sizes * jnp.stack([jnp.sin(angles), jnp.cos(angles)])).astype(dtype)


def rotate(
    x: Float[Array, "b n heads c"], angles: Float[Array, "m k half"]
) -> Float[Array, "b n heads c"]:
    """Turns the pairs of neighbouring channels; tokens after the last angle stay as they are."""
    angles = jnp.pad(angles, ((0, x.shape[1] - len(angles)), (0, 0), (0, 0)))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., ::2], x[..., 1::2]
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _frequencies(head_dim: int, temperature: float) -> np.ndarray:
    quarter = head_dim // 4
    return temperature ** -(np.arange(quarter) / quarter)
