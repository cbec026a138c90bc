"""Attention within groups of tokens: windows of neighbours, or sparse grids over the image.

Prefix tokens belong to every group, and attend to all tokens.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.models.layers.attention.base import WeightedAttention, scores
from vit_jax.models.layers.grid import Grid, ceil_div
from vit_jax.models.parts import fixed, free

NEIGHBOURS = "b (i r) (j s) ... -> b (i j) (r s) ..."
DILATED = "b (r i) (s j) ... -> b (i j) (r s) ..."

# A grid that the windows do not divide is padded at bottom and right. Libraries that published
# weights differ in the order of padding and shift.
PAD_ORDERS = {"shift_pad": "timm", "pad_shift": "Hugging Face"}

# The height and width that a window is no larger than, and along which it is shifted where they are
# larger: from those of the grid. The libraries differ where a grid is not square.
LIMITS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "each": lambda height, width: (height, width),  # timm
    "shorter": lambda height, width: (min(height, width),) * 2,  # Hugging Face's Swin
    "height": lambda height, width: (height, height),  # Hugging Face's Swin v2
}

_MASKED = -1e30  # a score whose weight is 0


class Groups(NamedTuple):
    """How a grid is divided into groups of `window` height x width tokens."""

    window: tuple[int, int]
    padded: tuple[int, int]  # size of the grid, padded to whole groups
    shift: tuple[int, int] = (0, 0)  # rows and columns that are rolled to the other end first
    pattern: str = NEIGHBOURS

    def split(self, x: Any) -> Any:
        """Return the groups of a grid of the padded size, (b, groups, tokens, ...)."""
        r, s = self.window
        return einops.rearrange(x, self.pattern, r=r, s=s)

    def join(self, x: Any) -> Any:
        """Return the grid of the padded size, given its groups."""
        left, right = self.pattern.split("->")
        height, width = self.padded
        r, s = self.window
        return einops.rearrange(x, f"{right} -> {left}", r=r, s=s, i=height // r, j=width // s)


class GroupedAttention(WeightedAttention):
    """Attention within groups of tokens of one size; what both variants share.

    A window is no larger than the grid, of which `limit` says the sides that count. A grid that the
    windows do not divide is padded with tokens that are zero before the projection.
    """

    window: tuple[int, int] = free((7, 7), "height and width of a window in tokens", low=1)
    pad_order: str = "shift_pad"
    limit: str = "each"
    mask_padding: bool = True

    def _groups(self, grid: Grid) -> Groups:
        """Return how a grid is divided in this block."""
        raise NotImplementedError

    def _windows(self, grid: Grid) -> Groups:
        """Return the division into windows of neighbours, without shift."""
        window = tuple(min(pair) for pair in zip(self.window, self._limits(grid), strict=True))
        padded = tuple(ceil_div(n, w) * w for n, w in zip(grid[:2], window, strict=True))
        return Groups(_pair(window), _pair(padded))

    def _limits(self, grid: Grid) -> tuple[int, int]:
        """Return height and width that a window is no larger than."""
        return LIMITS[self.limit](grid.height, grid.width)

    def _project_qkv(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Return queries, keys and values; those of a padding token come last."""
        if self._groups(grid).padded != grid[:2]:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
        return super()._project_qkv(x, grid)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._rotate_qk(q, k, grid)
        groups = self._groups(grid)
        p = grid.num_prefix
        n = p + grid.height * grid.width
        bias = self._bias(*groups.window, p)
        group_q, group_k, group_v = (self._partition(x, grid, groups) for x in (q, k, v))
        dtype = jnp.promote_types(q.dtype, jnp.float32)
        to_group = jnp.einsum("bgmhc,bgkhc->bghmk", group_q, group_k, preferred_element_type=dtype)
        to_group = jnp.where(self._mask(grid, groups), to_group + bias[:, p:, p:], _MASKED)
        if not p:
            weights = self._attention_weights(to_group, v, train)
            patches = jnp.einsum("bghmk,bgkhc->bgmhc", weights, group_v)
            return self._reverse(patches, grid, groups)
        to_prefix = jnp.einsum("bgmhc,bphc->bghmp", group_q, k[:, :p], preferred_element_type=dtype)
        to_prefix = to_prefix + bias[:, p:, :p]
        to_both = jnp.concatenate([to_prefix, to_group], axis=-1)
        weights = self._attention_weights(to_both, v, train)
        patches = jnp.einsum("bghmk,bgkhc->bgmhc", weights[..., p:], group_v)
        patches += jnp.einsum("bghmp,bphc->bgmhc", weights[..., :p], v[:, :p])
        bias_to_patches = jnp.repeat(bias[:, :p, p : p + 1], n - p, axis=-1)
        prefix_scores = scores(q[:, :p], k[:, :n])
        prefix_scores += jnp.concatenate([bias[:, :p, :p], bias_to_patches], axis=-1)
        weights = self._attention_weights(prefix_scores, v, train, "prefix_dropout")
        prefix = jnp.einsum("bhpn,bnhc->bphc", weights, v[:, :n])
        return jnp.concatenate([prefix, self._reverse(patches, grid, groups)], axis=1)

    def _partition(self, x: Array, grid: Grid, groups: Groups) -> Array:
        """Return the groups (b, g, m, heads, c) of the patch tokens.

        `x` is (b, n, heads, c), with a padding token at the end where the grid is padded.
        """
        height, width, p = grid
        n = p + height * width
        patches = x[:, p:n].reshape(len(x), height, width, *x.shape[2:])
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, -1)
        if groups.padded != (height, width):
            padded_height, padded_width = groups.padded
            padding = x[:, n, None, None]
            shape = (len(x), height, padded_width - width, *x.shape[2:])
            patches = jnp.concatenate([patches, jnp.broadcast_to(padding, shape)], axis=2)
            shape = (len(x), padded_height - height, padded_width, *x.shape[2:])
            patches = jnp.concatenate([patches, jnp.broadcast_to(padding, shape)], axis=1)
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, -1)
        return groups.split(patches)

    def _reverse(self, x: Array, grid: Grid, groups: Groups) -> Array:
        """Return the patch tokens (b, height * width, heads, c), given their groups."""
        patches = groups.join(x)
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, 1)
        patches = patches[:, : grid.height, : grid.width]
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, 1)
        return patches.reshape(len(x), grid.height * grid.width, *x.shape[3:])

    def _mask(self, grid: Grid, groups: Groups) -> np.ndarray:
        """Return which query (first) of a group attends to which key (last), (g, 1, m, m)."""
        regions = np.zeros((1, *groups.padded), int)
        is_patch = np.ones((1, *groups.padded), bool)
        for axis, (size, shift) in enumerate(zip(groups.padded, groups.shift, strict=True), 1):
            coords = np.arange(size)
            shape = [1, 1, 1]
            shape[axis] = size
            # Tokens that were rolled to the other end are no neighbours of those before them.
            region = (coords >= size - groups.window[axis - 1]) * 1 + (coords >= size - shift)
            regions = 3 * regions + (region if shift else 0 * region).reshape(shape)
            if self.pad_order == "pad_shift":
                coords = (coords + shift) % size
            is_patch &= (coords < grid[axis - 1]).reshape(shape)
        (regions,) = groups.split(regions)
        (is_patch,) = groups.split(is_patch)
        mask = regions[:, :, None] == regions[:, None]
        if self.mask_padding:
            mask &= is_patch[:, None] | ~is_patch[:, :, None]
        return mask[:, None]


class WindowAttention(GroupedAttention):
    """Attention within windows, which odd blocks shift by half (Liu et al. 2021, section 3.2).

    Tokens attend to the padding, as in the published weights, unless `mask_padding`.
    """

    pad_order: str = fixed(
        "shift_pad",
        "order of padding and shift, in timm and in Hugging Face",
        choices=PAD_ORDERS,
    )
    limit: str = fixed(
        "each",
        "sides of the grid that limit window and shift, in timm and in Hugging Face's v1 and v2",
        choices=LIMITS,
    )
    mask_padding: bool = free(False, "mask the tokens that pad the grid to whole windows")

    cost: ClassVar[str] = "n w^2 of w x w windows"

    def _groups(self, grid: Grid) -> Groups:
        groups = self._windows(grid)
        pairs = zip(self._limits(grid), groups.window, strict=True)
        shift = tuple(w // 2 if self.block % 2 and n > w else 0 for n, w in pairs)
        return groups._replace(shift=_pair(shift))


class DilatedAttention(GroupedAttention):
    """Attention within windows in even blocks, and within evenly spaced tokens in odd blocks.

    Two consecutive blocks connect all tokens (Tu et al. 2022, MaxViT, section 3.2; Child et al.
    2019). Padding is always masked.
    """

    cost: ClassVar[str] = "n w^2 of w x w tokens"

    def _groups(self, grid: Grid) -> Groups:
        groups = self._windows(grid)
        return groups._replace(pattern=DILATED) if self.block % 2 else groups


def _roll(x: Array, shift: tuple[int, int], sign: int) -> Array:
    return jnp.roll(x, [sign * size for size in shift], axis=(1, 2)) if any(shift) else x


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]
