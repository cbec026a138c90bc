"""Attention to fewer keys than there are tokens: to mixtures of them, or to a coarser grid."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.attention.base import Attention, HeadsIn, scores
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb.interpolation import resample, stored


class Mixtures(nn.Module):
    """Learned weights of the tokens in each of `rank` mixtures.

    The grid of the parameter is that of the images it was initialized with; for another it is
    resampled, and scaled so that a mixture keeps its size.
    """

    rank: int

    @nn.compact
    def __call__(self, grid: Grid) -> Float[Array, "n rank"]:
        """Returns the weights for a grid's tokens."""
        height, width, num_prefix = grid
        init = nn.initializers.normal((num_prefix + height * width) ** -0.5)
        weights = stored(self, "grid", init, (height, width, self.rank))
        shrink = math.prod(weights.shape[:2]) / (height * width)
        weights = resample(weights, height, width) * shrink
        weights = weights.reshape(height * width, self.rank)
        if not num_prefix:
            return weights
        prefix: Any = self.param("prefix", init, (num_prefix, self.rank), jnp.float32)
        return jnp.concatenate([prefix, weights])


class Linformer(Attention):
    """To learned mixtures of the keys and of the values (Wang et al. 2020, section 4)."""

    cost: ClassVar[str] = "n k for k landmarks"
    takes_bias: ClassVar[bool] = False

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._turned(q, k, grid)
        mixed = []
        for name, x in (("mix_k", k), ("mix_v", v)):
            weights = Mixtures(self.landmarks, name=name)(grid).astype(x.dtype)
            mixed.append(jnp.einsum("nr,bnhc->brhc", weights, x))
        k, v = mixed
        return jnp.einsum("bhnr,brhc->bnhc", self._weigh(scores(q, k), v, train), v)


class NystromAttention(Attention):
    """Full attention, reconstructed from that of landmarks (Xiong et al. 2021, eq. 13).

    Landmarks are the means of the cells of a coarse grid of about `landmarks` cells, and the prefix
    tokens. With as many as there are tokens it is full attention.
    """

    cost: ClassVar[str] = "n k for k landmarks"
    takes_bias: ClassVar[bool] = False
    has_weights: ClassVar[bool] = False
    iterations: int = 6  # of the pseudo-inverse (Xiong et al. 2021, eq. 11)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._turned(q, k, grid)
        side = max(1, math.isqrt(self.landmarks))
        near_q, near_k = (_landmarks(x, grid, side) for x in (q, k))
        to_landmarks = jax.nn.softmax(scores(q, near_k))
        among = jax.nn.softmax(scores(near_q, near_k))
        of_landmarks = jax.nn.softmax(scores(near_q, k)).astype(v.dtype)
        found = jnp.einsum("bhrm,bmhc->bhrc", of_landmarks, v)
        found = _pseudo_inverse(among, self.iterations) @ found.astype(among.dtype)
        return jnp.einsum("bhnr,bhrc->bnhc", to_landmarks, found).astype(v.dtype)


class ReducedAttention(Attention):
    """To the cells of a coarser grid, that a convolution makes (Wang et al. 2021, PVT, eq. 3 to 5).

    The cells are `reduction` tokens high and wide. Prefix tokens are seen as they are.
    """

    cost: ClassVar[str] = "n^2 / r^2 for cells of r x r"
    takes_bias: ClassVar[bool] = False

    def _heads(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        height, width, p = grid
        stride = (self.reduction, self.reduction)
        patches = x[:, p:].reshape(len(x), height, width, -1)
        missing = [-size % self.reduction for size in (height, width)]
        patches = jnp.pad(patches, ((0, 0), *((0, size) for size in missing), (0, 0)))
        init = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(), (None, None, None, "embed")
        )
        dim = x.shape[-1]
        conv = nn.Conv(dim, stride, stride, kernel_init=init, dtype=self.dtype, name="reduce")
        cells = conv(patches).reshape(len(x), -1, dim)
        cells = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(cells)
        context = jnp.concatenate([x[:, :p], cells], axis=1)
        (q,) = HeadsIn(1, self.num_heads, dtype=self.dtype, name="q")(x)
        k, v = HeadsIn(2, self.num_heads, dtype=self.dtype, name="kv")(context)
        return q, k, v

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        height, width, p = grid
        coarse = Grid(-(-height // self.reduction), -(-width // self.reduction), p)
        middle = coarse.places * self.reduction + (self.reduction - 1) / 2
        middle[:p] = 0
        q, k = self._turned(q, k, grid, middle)
        return jnp.einsum("bhnm,bmhc->bnhc", self._weigh(scores(q, k), v, train), v)


def _landmarks(x: Array, grid: Grid, side: int) -> Array:
    """Returns the prefix tokens and the means of the cells of a grid of at most side x side."""
    height, width, p = grid
    rows, columns = (_cells(size, min(side, size)).astype(x.dtype) for size in (height, width))
    patches = x[:, p:].reshape(len(x), height, width, *x.shape[2:])
    means = jnp.einsum("ri,sj,bijhc->brshc", rows, columns, patches)
    means = means.reshape(len(x), -1, *x.shape[2:])
    return jnp.concatenate([x[:, :p], means], axis=1)


def _cells(size: int, number: int) -> np.ndarray:
    """Returns the weight of each place in each of a number of cells, which may overlap by one."""
    places, cells = np.arange(size), np.arange(number)[:, None]
    first, end = cells * size // number, -(-(cells + 1) * size // number)
    inside = ((places >= first) & (places < end)).astype(np.float64)
    return inside / inside.sum(axis=1, keepdims=True)


def _pseudo_inverse(a: Array, iterations: int) -> Array:
    """Returns the Moore-Penrose inverse of matrices of attention weights by iteration."""
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    largest = jnp.abs(a).sum(axis=-2).max(axis=-1) * jnp.abs(a).sum(axis=-1).max(axis=-1)
    z = jnp.swapaxes(a, -1, -2) / largest[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z
