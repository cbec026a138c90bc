"""Softmax attention of every token to every token: the plain form, and fused kernels."""

from typing import ClassVar

import flax.linen as nn
import jax
from jaxtyping import Array

from vit_jax.models.layers.attention import kernels
from vit_jax.models.layers.attention.base import WeightedAttention, weighted_sum
from vit_jax.models.layers.attention.scores import scores
from vit_jax.models.layers.grid import Grid


class FullAttention(WeightedAttention):
    """Softmax attention of every token to every token (Vaswani et al. 2017, section 3.2).

    Scores and softmax are computed in at least float32, whatever `dtype` is.
    """

    cost: ClassVar[str] = "n^2"
    weights: ClassVar[str] = "softmax over all tokens"

    def weigh(self, q: Array, k: Array, grid: Grid) -> Array:
        """Return the softmax of the scores."""
        q, k = self._rotate_qk(q, k, grid)
        return jax.nn.softmax(scores(q, k) + self._bias(*grid))

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        return weighted_sum(self._drop_weights(self.weigh(q, k, grid), v, train), v)


class AutoAttention(FullAttention):
    """Full attention by the kernel that suits the devices (Dao et al. 2022), or in the plain form.

    `kernels.KERNELS` has the kernels and their conditions.
    """

    cost: ClassVar[str] = "n^2 time, n memory with a fused kernel"
    policy: ClassVar[str] = "auto"

    @nn.nowrap
    def choose(self, batch: int, width: int, grid: Grid) -> kernels.Choice | None:
        """Return the choice of a kernel for a batch of images."""
        return self._choose(self.policy, batch, width, grid.num_tokens)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        kernel = self.kernel_for(q.shape[0], self.num_heads * q.shape[-1], grid)
        if kernel is None:
            return super()._attend(q, k, v, grid, train)
        q, k = self._rotate_qk(q, k, grid)
        bias = None if self.bias is None else self._bias(*grid)[None]
        return kernel(q, k, v, bias, grid.num_tokens)


class FusedAttention(AutoAttention):
    """Full attention by a fused kernel wherever one runs (Dao et al. 2022), without dropout."""

    dropout: float = 0.0
    policy: ClassVar[str] = "fused"
