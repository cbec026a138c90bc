"""Attention to fewer keys than tokens: learned projections, landmarks or a coarser grid."""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.attention.base import (
    Attention,
    QKVProjection,
    WeightedAttention,
    weighted_sum,
)
from vit_jax.models.layers.attention.scores import scores
from vit_jax.models.layers.grid import Grid, ceil_div
from vit_jax.models.layers.posemb.interpolation import resample, resizable_param
from vit_jax.models.parts import fixed, free


class KeyProjection(nn.Module):
    """Learned projection of n keys or values to `rank` weighted sums (Wang et al. 2020, section 4).

    The parameter has the grid size of the images that it was initialized with. For another grid it
    is resampled and rescaled, so that the weights of each sum keep their total.
    """

    rank: int

    @nn.compact
    def __call__(self, grid: Grid) -> Float[Array, "n rank"]:
        """Return the weights of the tokens of a grid."""
        height, width, num_prefix = grid
        init = nn.initializers.normal((num_prefix + height * width) ** -0.5)
        weights = resizable_param(self, "grid", init, (height, width, self.rank))
        rescale = math.prod(weights.shape[:2]) / (height * width)
        weights = resample(weights, height, width) * rescale
        weights = weights.reshape(height * width, self.rank)
        if not num_prefix:
            return weights
        prefix: Any = self.param("prefix", init, (num_prefix, self.rank), jnp.float32)
        return jnp.concatenate([prefix, weights])


class Linformer(WeightedAttention):
    """Attention to learned projections of keys and values (Wang et al. 2020, section 4)."""

    landmarks: int = free(64, "number of projected keys and values", low=1)

    cost: ClassVar[str] = "n k for k landmarks"
    weights: ClassVar[str] = "softmax over projected keys, times the projection of the values"
    takes_bias: ClassVar[bool] = False

    @property
    def is_mixture(self) -> bool:
        """Whether no weight is negative, so that each output is a mixture of values."""
        return False

    def weigh(self, q: Array, k: Array, grid: Grid) -> Array:
        """Return the weights of the projected values, times their projection."""
        weights = self._projected_weights(q, k, grid)
        return jnp.einsum("bhnr,mr->bhnm", weights, self._mix("mix_v", grid))

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        if self.plain:
            return weighted_sum(self.weigh(q, k, grid), v)
        weights = self._projected_weights(q, k, grid)
        v = jnp.einsum("nr,bnhc->brhc", self._mix("mix_v", grid).astype(v.dtype), v)
        return weighted_sum(self._drop_weights(weights, v, train), v)

    def _projected_weights(self, q: Array, k: Array, grid: Grid) -> Array:
        """Return the softmax over the projected keys, (b, heads, n, r)."""
        q, k = self._rotate_qk(q, k, grid)
        k = jnp.einsum("nr,bnhc->brhc", self._mix("mix_k", grid).astype(k.dtype), k)
        return jax.nn.softmax(scores(q, k))

    def _mix(self, name: str, grid: Grid) -> Array:
        """Return the projection of the keys or values of all tokens, (n, r)."""
        weights: Array = KeyProjection(self.landmarks, name=name)(grid)
        return weights


class NystromAttention(Attention):
    """Full attention, approximated through landmarks (Xiong et al. 2021, eq. 13).

    The landmarks are the prefix tokens and the means over about `landmarks` rectangular regions of
    the patch grid. With one landmark per token the result equals full attention.
    """

    landmarks: int = free(64, "approximate number of landmarks, without the prefix tokens", low=1)

    cost: ClassVar[str] = "n k for k landmarks"
    weights: ClassVar[str] = "product of three matrices through landmarks, near the full softmax"
    takes_bias: ClassVar[bool] = False
    iterations: int = 6  # of the pseudo-inverse (Xiong et al. 2021, eq. 11)

    @property
    def is_mixture(self) -> bool:
        """Whether no weight is negative, so that each output is a mixture of values."""
        return False

    def weigh(self, q: Array, k: Array, grid: Grid) -> Array:
        """Return the product of the three matrices, which may have small negative entries."""
        to_landmarks, inverse, from_landmarks = self._factors(q, k, grid)
        return to_landmarks @ (inverse @ from_landmarks)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        if self.plain:
            return weighted_sum(self.weigh(q, k, grid), v)
        to_landmarks, inverse, from_landmarks = self._factors(q, k, grid)
        output = jnp.einsum("bhrm,bmhc->bhrc", from_landmarks.astype(v.dtype), v)
        output = inverse @ output.astype(inverse.dtype)
        return jnp.einsum("bhnr,bhrc->bnhc", to_landmarks, output).astype(v.dtype)

    def _factors(self, q: Array, k: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Return the softmax to the landmarks, the inverse of that among them, and from them."""
        q, k = self._rotate_qk(q, k, grid)
        side = max(1, math.isqrt(self.landmarks))
        q_landmarks, k_landmarks = (_landmarks(x, grid, side) for x in (q, k))
        to_landmarks = jax.nn.softmax(scores(q, k_landmarks))
        among_landmarks = jax.nn.softmax(scores(q_landmarks, k_landmarks))
        from_landmarks = jax.nn.softmax(scores(q_landmarks, k))
        return to_landmarks, _pseudo_inverse(among_landmarks, self.iterations), from_landmarks


class ReducedAttention(WeightedAttention):
    """Attention to keys and values on a coarser grid (Wang et al. 2021, PVT, eq. 3-5).

    A convolution with stride `reduction` makes the coarser grid. Prefix tokens are keys as well.
    """

    reduction: int = fixed(
        2, "factor by which the grid of keys and values is coarser, per side", low=1
    )

    cost: ClassVar[str] = "n^2 / r^2 for cells of r x r"
    weights: ClassVar[str] = "over cells that a convolution and a norm make of several tokens"
    takes_bias: ClassVar[bool] = False

    def _project_qkv(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        height, width, p = grid
        stride = (self.reduction, self.reduction)
        patches = x[:, p:].reshape(len(x), height, width, -1)
        padding = [-size % self.reduction for size in (height, width)]
        patches = jnp.pad(patches, ((0, 0), *((0, size) for size in padding), (0, 0)))
        init = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(), (None, None, None, "embed")
        )
        dim = x.shape[-1]
        conv = nn.Conv(dim, stride, stride, kernel_init=init, dtype=self.dtype, name="reduce")
        coarse = conv(patches).reshape(len(x), -1, dim)
        coarse = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(coarse)
        context = jnp.concatenate([x[:, :p], coarse], axis=1)
        project = functools.partial(
            QKVProjection,
            num_heads=self.num_heads,
            bias=self.qkv_bias,
            dtype=self.dtype,
            grad_dtype=self.grad_dtype,
        )
        (q,) = project(num=1, name="q")(x)
        k, v = project(num=2, name="kv")(context)
        return q, k, v

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        height, width, p = grid
        coarse = Grid(ceil_div(height, self.reduction), ceil_div(width, self.reduction), p)
        centers = coarse.coords * self.reduction + (self.reduction - 1) / 2
        centers[:p] = 0
        q, k = self._rotate_qk(q, k, grid, centers)
        weights = jax.nn.softmax(scores(q, k))
        return weighted_sum(self._drop_weights(weights, v, train), v)


def _landmarks(x: Array, grid: Grid, side: int) -> Array:
    """Return the prefix tokens and the means over at most side x side regions of the grid."""
    height, width, p = grid
    rows, columns = (
        _averaging_matrix(size, min(side, size)).astype(x.dtype) for size in (height, width)
    )
    patches = x[:, p:].reshape(len(x), height, width, *x.shape[2:])
    means = jnp.einsum("ri,sj,bijhc->brshc", rows, columns, patches)
    means = means.reshape(len(x), -1, *x.shape[2:])
    return jnp.concatenate([x[:, :p], means], axis=1)


def _averaging_matrix(size: int, number: int) -> np.ndarray:
    """Return the matrix (number, size) that averages each of `number` segments of an axis.

    Neighbouring segments overlap by one position where `number` does not divide `size`.
    """
    positions = np.arange(size)
    segments = np.arange(number)[:, None]
    first = segments * size // number
    end = ceil_div((segments + 1) * size, number)
    members = ((positions >= first) & (positions < end)).astype(np.float64)
    return members / members.sum(axis=1, keepdims=True)


def _pseudo_inverse(a: Array, iterations: int) -> Array:
    """Approximate the Moore-Penrose inverse of attention weights (Xiong et al. 2021, eq. 11)."""
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    scale = jnp.abs(a).sum(axis=-2).max(axis=-1) * jnp.abs(a).sum(axis=-1).max(axis=-1)
    z = jnp.swapaxes(a, -1, -2) / scale[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z
