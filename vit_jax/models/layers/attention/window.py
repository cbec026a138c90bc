"""Attention within groups of tokens: neighbours in a window, or a sparse grid over the image.

Prefix tokens are in every group, and see all tokens.
"""

from typing import Any, ClassVar, NamedTuple

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.models.layers.attention.base import Attention, scores
from vit_jax.models.layers.grid import Grid

NEIGHBOURS = "b (i r) (j s) ... -> b (i j) (r s) ..."
DILATED = "b (r i) (s j) ... -> b (i j) (r s) ..."

# What comes first where the windows do not divide the grid, which then gets more rows and columns
# at its end: timm's order, and that of Hugging Face.
PAD_ORDERS = {"shift_pad": "timm", "pad_shift": "Hugging Face"}

_FAR = -1e30  # a score that has no weight


class Groups(NamedTuple):
    """How a grid falls into groups of `window` height x width tokens."""

    window: tuple[int, int]
    padded: tuple[int, int]  # the grid's size in whole groups
    shift: tuple[int, int] = (0, 0)  # rows and columns that go to the other end first
    pattern: str = NEIGHBOURS

    def split(self, x: Any) -> Any:
        """Returns the groups of a grid of the padded size, (b, groups, tokens, ...)."""
        r, s = self.window
        return einops.rearrange(x, self.pattern, r=r, s=s)

    def join(self, x: Any) -> Any:
        """Returns the grid of the padded size again."""
        left, right = self.pattern.split("->")
        (height, width), (r, s) = self.padded, self.window
        return einops.rearrange(x, f"{right} -> {left}", r=r, s=s, i=height // r, j=width // s)


class WindowAttention(Attention):
    """To the tokens of the same window; odd blocks shift the windows by half (Liu et al. 2021).

    A window is no larger than the grid. Where windows do not divide the grid, it is padded with
    tokens that are zero before the projection; they are seen like others, as the published weights
    have it, unless `mask_padding`.
    """

    cost: ClassVar[str] = "n w^2 of w x w windows"

    def _groups(self, grid: Grid) -> Groups:
        sizes = (grid.height, grid.width)
        window = tuple(min(pair) for pair in zip(self.window, sizes, strict=True))
        padded = tuple(-(-n // w) * w for n, w in zip(sizes, window, strict=True))
        pairs = zip(sizes, window, strict=True)
        shift = tuple(w // 2 if self.block % 2 and n > w else 0 for n, w in pairs)
        return Groups(_pair(window), _pair(padded), _pair(shift))

    def _heads(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values; those of a padding token come last."""
        if self._groups(grid).padded != grid[:2]:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
        return super()._heads(x, grid)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._turned(q, k, grid)
        groups, p = self._groups(grid), grid.num_prefix
        n = p + grid.height * grid.width
        bias = self._bias(*groups.window, p)
        q_in, k_in, v_in = (self._lay_out(x, grid, groups) for x in (q, k, v))
        dtype = jnp.promote_types(q.dtype, jnp.float32)
        within = jnp.einsum("bgmhc,bgkhc->bghmk", q_in, k_in, preferred_element_type=dtype)
        within = jnp.where(self._sees(grid, groups), within + bias[:, p:, p:], _FAR)
        if not p:
            weights = self._weigh(within, v, train)
            return self._lay_back(jnp.einsum("bghmk,bgkhc->bgmhc", weights, v_in), grid, groups)
        to_prefix = jnp.einsum("bgmhc,bphc->bghmp", q_in, k[:, :p], preferred_element_type=dtype)
        to_prefix = to_prefix + bias[:, p:, :p]
        weights = self._weigh(jnp.concatenate([to_prefix, within], axis=-1), v, train)
        patches = jnp.einsum("bghmk,bgkhc->bgmhc", weights[..., p:], v_in)
        patches += jnp.einsum("bghmp,bphc->bgmhc", weights[..., :p], v[:, :p])
        to_patches = jnp.repeat(bias[:, :p, p : p + 1], n - p, axis=-1)
        of_prefix = scores(q[:, :p], k[:, :n])
        of_prefix += jnp.concatenate([bias[:, :p, :p], to_patches], axis=-1)
        weights = self._weigh(of_prefix, v, train, "prefix_dropout")
        prefix = jnp.einsum("bhpn,bnhc->bphc", weights, v[:, :n])
        return jnp.concatenate([prefix, self._lay_back(patches, grid, groups)], axis=1)

    def _lay_out(self, x: Array, grid: Grid, groups: Groups) -> Array:
        """Returns the groups, (b, g, m, heads, c), of tokens (b, p + n [+ 1 for padding], ...)."""
        height, width, p = grid
        n = p + height * width
        patches = x[:, p:n].reshape(len(x), height, width, *x.shape[2:])
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, -1)
        if groups.padded != (height, width):
            below, beside = groups.padded[0] - height, groups.padded[1] - width
            filler = x[:, n, None, None]
            shape = (len(x), height, beside, *x.shape[2:])
            patches = jnp.concatenate([patches, jnp.broadcast_to(filler, shape)], axis=2)
            shape = (len(x), below, groups.padded[1], *x.shape[2:])
            patches = jnp.concatenate([patches, jnp.broadcast_to(filler, shape)], axis=1)
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, -1)
        return groups.split(patches)

    def _lay_back(self, x: Array, grid: Grid, groups: Groups) -> Array:
        """Returns the tokens of the groups again, (b, n, heads, c)."""
        patches = groups.join(x)
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, 1)
        patches = patches[:, : grid.height, : grid.width]
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, 1)
        return patches.reshape(len(x), grid.height * grid.width, *x.shape[3:])

    def _sees(self, grid: Grid, groups: Groups) -> np.ndarray:
        """Returns which token of a group sees which, (g, 1, m, m)."""
        regions, real = np.zeros((1, *groups.padded), int), np.ones((1, *groups.padded), bool)
        for axis, (size, shift) in enumerate(zip(groups.padded, groups.shift, strict=True), 1):
            places = np.arange(size)
            shape = [1, 1, 1]
            shape[axis] = size
            # What came from the other end is no neighbour.
            after = (places >= size - groups.window[axis - 1]) * 1 + (places >= size - shift)
            regions = 3 * regions + (after if shift else 0 * after).reshape(shape)
            if self.pad_order == "pad_shift":
                places = (places + shift) % size
            real &= (places < grid[axis - 1]).reshape(shape)
        (regions,), (real,) = groups.split(regions), groups.split(real)
        same = regions[:, :, None] == regions[:, None]
        seen = real[:, None] | ~real[:, :, None] if self._masks_padding else True
        return (same & seen)[:, None]

    @property
    def _masks_padding(self) -> bool:
        return self.mask_padding


class DilatedAttention(WindowAttention):
    """In odd blocks, to as many tokens as a window has, evenly over the image; else to a window.

    Two blocks so connect all tokens (Tu et al. 2022, MaxViT, section 3.2; Child et al. 2019). What
    is padded is never seen.
    """

    cost: ClassVar[str] = "n w^2 of w x w tokens"

    def _groups(self, grid: Grid) -> Groups:
        groups = super()._groups(grid)._replace(shift=(0, 0))
        if self.block % 2 == 0:
            return groups
        return groups._replace(pattern=DILATED)

    @property
    def _masks_padding(self) -> bool:
        return True


def _roll(x: Array, shift: tuple[int, int], sign: int) -> Array:
    return jnp.roll(x, [sign * size for size in shift], axis=(1, 2)) if any(shift) else x


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]
