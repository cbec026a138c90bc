"""Linear attention: the compute time is linear in the number of tokens."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from vit_jax.models.layers.attention.base import Attention, weighted_sum
from vit_jax.models.layers.attention.scores import scores
from vit_jax.models.layers.grid import Grid


class LinearAttention(Attention):
    """Attention with weights relu(q) . relu(k) (Katharopoulos et al. 2020, eq. 5).

    The sums over keys and values are computed once and shared by all queries. The feature map is
    ReLU, as in EfficientViT (Cai et al. 2023, eq. 2). Rotary embeddings rotate the features but not
    the normalization (Su et al. 2021, eq. 19). Sums are computed in at least float32.
    """

    cost: ClassVar[str] = "n c for heads of c channels"
    weights: ClassVar[str] = "products of features, divided by their sum without rotation"
    takes_bias: ClassVar[bool] = False
    eps: float = 1e-6  # added to the denominator

    @property
    def is_mixture(self) -> bool:
        """Whether no weight is negative: not after a rotation."""
        return self.rotary is None

    def weigh(self, q: Array, k: Array, grid: Grid) -> Array:
        """Return the products of the features, normalized: the matrix that is never stored."""
        q, k = nn.relu(q), nn.relu(k)
        denominators = jnp.swapaxes(self._denominators(q, k), 1, 2)
        return scores(*self._rotate_qk(q, k, grid)) / denominators[..., None]

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        if self.plain:
            return weighted_sum(self.weigh(q, k, grid), v)
        dtype = jnp.promote_types(q.dtype, jnp.float32)
        q, k = nn.relu(q), nn.relu(k)
        denominators = self._denominators(q, k)
        q, k = self._rotate_qk(q, k, grid)
        key_value_sums = jnp.einsum("bmhc,bmhe->bhce", k, v, preferred_element_type=dtype)
        output = jnp.einsum("bnhc,bhce->bnhe", q, key_value_sums, preferred_element_type=dtype)
        return (output / denominators[..., None]).astype(v.dtype)

    def _denominators(self, q: Array, k: Array) -> Array:
        """Return the sums of the products of features before they are rotated, (b, n, heads)."""
        dtype = jnp.promote_types(q.dtype, jnp.float32)
        key_sums = jnp.sum(k, axis=1, dtype=dtype)
        return jnp.einsum("bnhc,bhc->bnh", q, key_sums, preferred_element_type=dtype) + self.eps
