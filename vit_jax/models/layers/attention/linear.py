"""Attention whose time is linear in the number of tokens: no weight per pair of tokens."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from vit_jax.models.layers.attention.base import Attention
from vit_jax.models.layers.grid import Grid


class LinearAttention(Attention):
    """Weights are products of features relu(q) and relu(k), so that keys are summed over first.

    Katharopoulos et al. 2020, eq. 5; the feature map is that of EfficientViT (Cai et al. 2023,
    eq. 2). Rotary embeddings rotate the features and do not change the normalization (Su et al.
    2021, eq. 19). The sums are at least float32.
    """

    cost: ClassVar[str] = "n c for heads of c channels"
    takes_bias: ClassVar[bool] = False
    eps: float = 1e-6  # added to the normalization

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        dtype = jnp.promote_types(q.dtype, jnp.float32)
        q, k = nn.relu(q), nn.relu(k)
        key_sums = jnp.sum(k, axis=1, dtype=dtype)
        norms = jnp.einsum("bnhc,bhc->bnh", q, key_sums, preferred_element_type=dtype) + self.eps
        q, k = self._rotate_qk(q, k, grid)
        state = jnp.einsum("bmhc,bmhe->bhce", k, v, preferred_element_type=dtype)
        output = jnp.einsum("bnhc,bhce->bnhe", q, state, preferred_element_type=dtype)
        return (output / norms[..., None]).astype(v.dtype)
