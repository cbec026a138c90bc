"""Rotary position embeddings in two dimensions (Su et al. 2021; Heo et al. 2024, section 3).

Each pair of channels of a query or a key is rotated by an angle that is linear in the coordinates
of its token, so that their dot product depends on the difference of the coordinates. Entries are
called with a number of heads and the channels c of a head, and map coordinates (n, 2) to angles
(n, heads or 1, half), where half = c / 2. At (0, 0), where prefix tokens are, all angles are zero.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.parts import Component, Model, Part, Problem


class Rotary(Component):
    """What a model tells a rotary embedding."""

    num_heads: int
    head_dim: int  # a multiple of 4

    site: ClassVar[str] = "rotary"

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield heads whose channels are not pairs for rows and for columns."""
        for width, num_heads in model.stages:
            if width // num_heads % 4:
                problem = "rotary positions need heads of a multiple of 4 channels"
                yield "num_heads", f"{problem}, got {width // num_heads}"


class AxialRotary(Rotary):
    """Fixed frequencies: half of the pairs rotate with the column, half with the row."""

    cost: ClassVar[str] = "4 n d multiplications a block"

    temperature: float = 100.0

    @nn.compact
    def __call__(self, coords: Float[np.ndarray, "n 2"]) -> Float[Array, "n 1 half"]:
        """Return the angles in radians."""
        angles = jnp.asarray(coords)[:, :, None] * _frequencies(self.head_dim, self.temperature)
        return jnp.concatenate([angles[:, 1], angles[:, 0]], axis=-1)[:, None]


class MixedRotary(Rotary):
    """Learned frequencies: one for rows and one for columns, for each pair and head."""

    cost: ClassVar[str] = "d parameters a block"

    temperature: float = 10.0

    @nn.compact
    def __call__(self, coords: Float[np.ndarray, "n 2"]) -> Float[Array, "n heads half"]:
        """Return the angles in radians."""
        frequencies: Any = self.param(
            "frequencies",
            nn.with_logical_partitioning(self._init, (None, "heads", None)),
            (2, self.num_heads, self.head_dim // 2),
            jnp.float32,
        )
        return jnp.einsum("na,ahc->nhc", jnp.asarray(coords, frequencies.dtype), frequencies)

    def _init(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return two orthogonal directions per frequency, in a random orientation per head."""
        norms = _frequencies(self.head_dim, self.temperature)
        angle = nn.initializers.uniform(2 * np.pi)(key, (self.num_heads, 1), dtype)
        angles = jnp.concatenate([angle + 0 * norms, angle + np.pi / 2 + 0 * norms], axis=-1)
        both_norms = jnp.concatenate([norms, norms])
        return (both_norms * jnp.stack([jnp.sin(angles), jnp.cos(angles)])).astype(dtype)


def rotate(
    x: Float[Array, "b n heads c"], angles: Float[Array, "m k half"]
) -> Float[Array, "b n heads c"]:
    """Rotate adjacent channel pairs; tokens without an angle are unchanged.

    Args:
      x: Queries or keys.
      angles: In radians, of the first m tokens, for k heads; k = 1 applies to all heads.
    """
    angles = jnp.pad(angles, ((0, x.shape[1] - len(angles)), (0, 0), (0, 0)))
    cos = jnp.cos(angles)
    sin = jnp.sin(angles)
    first, second = x[..., ::2], x[..., 1::2]
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def _frequencies(head_dim: int, temperature: float) -> np.ndarray:
    """Return the radians per row or column of each pair (Heo et al. 2024, eq. 9)."""
    quarter = head_dim // 4
    return temperature ** -(np.arange(quarter) / quarter)
