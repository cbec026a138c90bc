"""Rotary position embeddings in two dimensions (Su et al. 2021; Heo et al. 2024, section 3).

Each pair of channels of a query or key is rotated by an angle that is linear in the coordinates of
its token. The dot product of a query and a key then depends on the difference of their coordinates.

A module maps coordinates (n, 2) to angles in radians (n, heads or 1, half), where half = c / 2 for
heads of c channels. All angles are zero at (0, 0), the coordinates of prefix tokens.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.parts import Component, Model, Part, Problem


class Rotary(Component):
    """Base class of rotary position embeddings."""

    num_heads: int
    head_dim: int  # channels per head, a multiple of 4

    site: ClassVar[str] = "rotary"

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if the number of channels per head is not a multiple of 4."""
        for width, num_heads in model.stages:
            if width // num_heads % 4:
                problem = "rotary positions need a multiple of 4 channels per head"
                yield "num_heads", f"{problem}, got {width // num_heads}"


class AxialRotary(Rotary):
    """Fixed frequencies: half of the channel pairs rotate with the column, half with the row."""

    cost: ClassVar[str] = "4 n d multiplications a block"

    temperature: float = 100.0

    @nn.compact
    def __call__(self, coords: Float[np.ndarray, "n 2"]) -> Float[Array, "n 1 half"]:
        """Return the angles in radians."""
        angles = jnp.asarray(coords)[:, :, None] * _frequencies(self.head_dim, self.temperature)
        return jnp.concatenate([angles[:, 1], angles[:, 0]], axis=-1)[:, None]


class MixedRotary(Rotary):
    """Learned frequencies of row and column, per channel pair and head."""

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
        """Return two orthogonal frequency vectors per magnitude, randomly oriented per head."""
        norms = _frequencies(self.head_dim, self.temperature)
        angle = nn.initializers.uniform(2 * np.pi)(key, (self.num_heads, 1), dtype)
        angles = jnp.concatenate([angle + 0 * norms, angle + np.pi / 2 + 0 * norms], axis=-1)
        doubled_norms = jnp.concatenate([norms, norms])
        return (doubled_norms * jnp.stack([jnp.sin(angles), jnp.cos(angles)])).astype(dtype)


def rotate(
    x: Float[Array, "b n heads c"], angles: Float[Array, "m k half"]
) -> Float[Array, "b n heads c"]:
    """Rotate pairs of adjacent channels.

    Args:
      x: Queries or keys.
      angles: Angles in radians of the first m <= n tokens, for k heads; k = 1 applies to all heads.

    Returns:
      The rotated vectors in the dtype of `x`; tokens after the first m are unchanged.
    """
    angles = jnp.pad(angles, ((0, x.shape[1] - len(angles)), (0, 0), (0, 0)))
    cos = jnp.cos(angles)
    sin = jnp.sin(angles)
    first, second = x[..., ::2], x[..., 1::2]
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def _frequencies(head_dim: int, temperature: float) -> np.ndarray:
    """Return the frequencies in radians per row or column, (c / 4,) (Heo et al. 2024, eq. 9)."""
    quarter = head_dim // 4
    return temperature ** -(np.arange(quarter) / quarter)
