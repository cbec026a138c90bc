"""Attention within groups of patches: contiguous windows, or dilated grids over the image.

Prefix tokens belong to every group and attend to all tokens.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.models.layers.attention import kernels
from vit_jax.models.layers.attention.base import WeightedAttention, products, scores
from vit_jax.models.layers.grid import Grid, ceil_div
from vit_jax.models.parts import fixed, free
from vit_jax.settings.fields import field

CONTIGUOUS = "b (i r) (j s) ... -> b (i j) (r s) ..."
DILATED = "b (r i) (s j) ... -> b (i j) (r s) ..."

# A grid that the windows do not divide is padded at the bottom and right. The libraries with
# published weights differ in whether they shift before or after padding.
PAD_ORDERS = {"shift_pad": "timm", "pad_shift": "Hugging Face"}

# Maps height and width of the grid to the limits of a window: it is at most that large, and it is
# shifted only along a side whose limit is larger. The libraries differ for grids that are not
# square.
LIMITS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "each": lambda height, width: (height, width),  # timm
    "shorter": lambda height, width: (min(height, width),) * 2,  # Hugging Face's Swin
    "height": lambda height, width: (height, height),  # Hugging Face's Swin v2
}

_MASKED = -1e30  # score of a masked pair of tokens, whose weight becomes 0


class Groups(NamedTuple):
    """The division of a patch grid into groups of `window` height x width patches."""

    window: tuple[int, int]
    padded: tuple[int, int]  # size of the grid, padded to whole groups
    shift: tuple[int, int] = (0, 0)  # rows and columns by which the grid is rolled first
    pattern: str = CONTIGUOUS

    def split(self, x: Any) -> Any:
        """Divide a padded grid (b, h, w, ...) into groups (b, groups, patches, ...)."""
        r, s = self.window
        return einops.rearrange(x, self.pattern, r=r, s=s)

    def join(self, x: Any) -> Any:
        """Return the padded grid, given its groups: the inverse of `split`."""
        left, right = self.pattern.split("->")
        height, width = self.padded
        r, s = self.window
        return einops.rearrange(x, f"{right} -> {left}", r=r, s=s, i=height // r, j=width // s)


class GroupedAttention(WeightedAttention):
    """Base class of attention within groups of patches of one size.

    A window is at most as large as the grid, as defined by `limit`. A grid that the windows do not
    divide is padded with tokens that are zero before the projection.
    """

    period: ClassVar[int] = 2

    window: tuple[int, int] = free((7, 7), "height and width of a window in tokens", low=1)
    kernel: str = field("auto", "kernel of the attention in a window", choices=kernels.POLICIES)
    pad_order: str = "shift_pad"
    limit: str = "each"
    mask_padding: bool = True

    def choose(self, batch: int, width: int, grid: Grid) -> kernels.Choice | None:
        """Return the choice of a kernel for a batch of images."""
        groups = self._groups(grid)
        return self._choose(
            self.kernel,
            batch,
            width,
            math.prod(groups.window),
            num_prefix=grid.num_prefix,
            masked=not self._mask(grid, groups).all(),
        )

    @nn.nowrap
    def padded(self, batch: int, width: int, grid: Grid, *, once: bool = False) -> int:
        """Return the number of tokens; padding is added to each window instead."""
        return grid.num_tokens

    def _groups(self, grid: Grid) -> Groups:
        """Return the division of a grid in this block."""
        raise NotImplementedError

    def _windows(self, grid: Grid) -> Groups:
        """Return the division into contiguous windows, without a shift."""
        window = tuple(min(pair) for pair in zip(self.window, self._limits(grid), strict=True))
        padded = tuple(ceil_div(n, w) * w for n, w in zip(grid[:2], window, strict=True))
        return Groups(_pair(window), _pair(padded))

    def _limits(self, grid: Grid) -> tuple[int, int]:
        """Return the largest height and width of a window."""
        return LIMITS[self.limit](grid.height, grid.width)

    def _project_qkv(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Return queries, keys and values, ending with a padding token if the grid is padded."""
        if self._groups(grid).padded != grid[:2]:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
        return super()._project_qkv(x, grid)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._rotate_qk(q, k, grid)
        groups = self._groups(grid)
        p = grid.num_prefix
        n = grid.num_tokens
        group_q, group_k, group_v = (self._partition(x, grid, groups) for x in (q, k, v))
        if kernel := self.kernel_for(q.shape[0], self.num_heads * q.shape[-1], grid):
            patches = self._attend_fused(kernel, group_q, group_k, group_v, grid)
            return self._reverse(patches, grid, groups)
        bias = self._bias(*groups.window, p)
        patch_scores = products("bgmhc,bgkhc->bghmk", group_q, group_k)
        patch_scores = jnp.where(self._mask(grid, groups), patch_scores + bias[:, p:, p:], _MASKED)
        if not p:
            weights = self._attention_weights(patch_scores, v, train)
            patches = jnp.einsum("bghmk,bgkhc->bgmhc", weights, group_v)
            return self._reverse(patches, grid, groups)
        prefix_key_scores = products("bgmhc,bphc->bghmp", group_q, k[:, :p])
        prefix_key_scores = prefix_key_scores + bias[:, p:, :p]
        all_scores = jnp.concatenate([prefix_key_scores, patch_scores], axis=-1)
        weights = self._attention_weights(all_scores, v, train)
        patches = jnp.einsum("bghmk,bgkhc->bgmhc", weights[..., p:], group_v)
        patches += jnp.einsum("bghmp,bphc->bgmhc", weights[..., :p], v[:, :p])
        prefix_bias = jnp.repeat(bias[:, :p, p : p + 1], n - p, axis=-1)
        prefix_query_scores = scores(q[:, :p], k[:, :n])
        prefix_query_scores += jnp.concatenate([bias[:, :p, :p], prefix_bias], axis=-1)
        weights = self._attention_weights(prefix_query_scores, v, train, "prefix_dropout")
        prefix = jnp.einsum("bhpn,bnhc->bphc", weights, v[:, :n])
        return jnp.concatenate([prefix, self._reverse(patches, grid, groups)], axis=1)

    def _attend_fused(
        self, kernel: kernels.Kernel, q: Array, k: Array, v: Array, grid: Grid
    ) -> Array:
        """Return the output (b, g, m, heads, c) of all groups, without prefix tokens."""
        groups = self._groups(grid)
        mask = self._mask(grid, groups)
        bias = None if self.bias is None else self._bias(*groups.window, 0)[None]
        if not mask.all():
            bias = jnp.where(mask, 0.0 if bias is None else bias, kernels.MASKED)
            bias = jnp.broadcast_to(bias, (q.shape[0], *bias.shape)).reshape(-1, *bias.shape[1:])
        flat_q, flat_k, flat_v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        return kernel(flat_q, flat_k, flat_v, bias, q.shape[2]).reshape(q.shape)

    def _partition(self, x: Array, grid: Grid, groups: Groups) -> Array:
        """Divide the patch tokens into groups (b, g, m, heads, c).

        `x` is (b, n, heads, c), with a padding token at the end if the grid is padded.
        """
        height, width, p = grid
        n = grid.num_tokens
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
        """Return the patch tokens (b, height * width, heads, c): the inverse of `_partition`."""
        patches = groups.join(x)
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, 1)
        patches = patches[:, : grid.height, : grid.width]
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, 1)
        return patches.reshape(len(x), grid.height * grid.width, *x.shape[3:])

    def _mask(self, grid: Grid, groups: Groups) -> np.ndarray:
        """Return the mask (g, 1, m, m): whether a query of a group (first m) attends to a key."""
        regions = np.zeros((1, *groups.padded), int)
        is_patch = np.ones((1, *groups.padded), bool)
        for axis, (size, shift) in enumerate(zip(groups.padded, groups.shift, strict=True), 1):
            coords = np.arange(size)
            shape = [1, 1, 1]
            shape[axis] = size
            # The roll brings opposite ends of the grid together; they do not attend to each other.
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
    """Attention within windows, shifted by half in odd blocks (Liu et al. 2021, section 3.2).

    Tokens attend to the padding, as in the published models, unless `mask_padding` is set.
    """

    pad_order: str = fixed(
        "shift_pad",
        "order of padding and shift (timm's, Hugging Face's)",
        choices=PAD_ORDERS,
    )
    limit: str = fixed(
        "each",
        "sides of the grid that limit a window (timm's, Hugging Face's Swin's, its Swin v2's)",
        choices=LIMITS,
    )
    mask_padding: bool = free(False, "mask the padding, so that no token attends to it")

    cost: ClassVar[str] = "n w^2 of w x w windows"

    def _groups(self, grid: Grid) -> Groups:
        groups = self._windows(grid)
        pairs = zip(self._limits(grid), groups.window, strict=True)
        shift = tuple(w // 2 if self.block % 2 and n > w else 0 for n, w in pairs)
        return groups._replace(shift=_pair(shift))


class DilatedAttention(GroupedAttention):
    """Attention within windows in even blocks, and within dilated grids in odd blocks.

    A dilated grid takes every k-th patch of a row or column, so that two consecutive blocks connect
    all tokens (Tu et al. 2022, MaxViT, section 3.2; Child et al. 2019). Padding is always masked.
    """

    cost: ClassVar[str] = "n w^2 of w x w tokens"

    def _groups(self, grid: Grid) -> Groups:
        groups = self._windows(grid)
        return groups._replace(pattern=DILATED) if self.block % 2 else groups


def _roll(x: Array, shift: tuple[int, int], sign: int) -> Array:
    return jnp.roll(x, [sign * size for size in shift], axis=(1, 2)) if any(shift) else x


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]
