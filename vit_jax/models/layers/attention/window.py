"""Attention within groups of patches: contiguous windows, or dilated grids over the image.

Prefix tokens belong to every group and attend to all tokens.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.models.layers.attention import kernels
from vit_jax.models.layers.attention.base import WeightedAttention, weighted_sum
from vit_jax.models.layers.attention.groups import DILATED, Groups
from vit_jax.models.layers.attention.scores import products, scores
from vit_jax.models.layers.grid import Grid, ceil_div
from vit_jax.models.parts import fixed, free
from vit_jax.settings.fields import field

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


class GroupedAttention(WeightedAttention):
    """Base class of attention within groups of patches of one size.

    A window is at most as large as the grid, as defined by `limit`. A grid that the windows do not
    divide is padded with tokens that are zero before the projection.
    """

    period: ClassVar[int] = 2
    weights: ClassVar[str] = "softmax within groups; zero between groups"

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

    def _arrange(self, x: Any, grid: Grid) -> Any:
        """Return the prefix tokens, then the patches of one group after the other.

        Args:
          x: An array (b, n, c) of JAX or NumPy.
          grid: Layout of the tokens.

        Returns:
          An array (b, p + g * m, c) with zeros as padding.
        """
        xp = np if isinstance(x, np.ndarray) else jnp
        groups = self._groups(grid)
        height, width, p = grid
        patches = x[:, p:].reshape(len(x), height, width, -1)
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, -1)
        padding = [size - n for size, n in zip(groups.padded, (height, width), strict=True)]
        patches = xp.pad(patches, ((0, 0), *((0, size) for size in padding), (0, 0)))
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, -1)
        patches = groups.split(patches)
        return xp.concatenate([x[:, :p], patches], axis=1) if p else patches

    def _restore(self, x: Array, grid: Grid) -> Array:
        """Return the tokens in the order of the grid, without padding: undo `_arrange`."""
        groups = self._groups(grid)
        height, width, p = grid
        patches = groups.join(x[:, p:])
        if self.pad_order == "pad_shift":
            patches = _roll(patches, groups.shift, 1)
        patches = patches[:, :height, :width]
        if self.pad_order == "shift_pad":
            patches = _roll(patches, groups.shift, 1)
        patches = patches.reshape(len(x), height * width, -1)
        return jnp.concatenate([x[:, :p], patches], axis=1) if p else patches

    def _coords(self, grid: Grid) -> np.ndarray:
        coords: np.ndarray = self._arrange(grid.coords[None], grid)[0]
        return coords

    def _project_qkv(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Return queries, keys and values (b, p + g * m, heads, c).

        Without prefix tokens the groups are projected like images: TPUs then copy less.
        """
        if grid.num_prefix:
            return super()._project_qkv(x, grid)
        size = math.prod(self._groups(grid).window)
        q, k, v = super()._project_qkv(x.reshape(-1, size, x.shape[-1]), grid)
        q, k, v = (y.reshape(*x.shape[:2], *y.shape[2:]) for y in (q, k, v))
        return q, k, v

    @nn.nowrap
    def order(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return where queries and keys are in the matrix of `weigh`, in the order of the grid.

        Args:
          grid: Layout of the tokens.

        Returns:
          The indices of the n tokens; and of these, followed by the padding if it takes weight.
        """
        numbers = self._arrange(np.arange(1, grid.num_tokens + 1)[None, :, None], grid)[0, :, 0]
        order = np.argsort(numbers, kind="stable")
        num_padding = len(order) - grid.num_tokens  # the padding has the number 0
        tokens = order[num_padding:]
        return tokens, tokens if self.mask_padding else np.roll(order, -num_padding)

    def weigh(self, q: Array, k: Array, grid: Grid) -> Array:
        """Return the softmax within groups as a matrix over all tokens."""
        p = grid.num_prefix
        prefix, patches = self._group_weights(q, k, grid)
        batch, num_groups, num_heads, size, _ = patches.shape
        eye = jnp.eye(num_groups, dtype=patches.dtype)
        within = jnp.einsum("bghmk,gf->bhgmfk", patches[..., p:], eye)
        within = within.reshape(batch, num_heads, num_groups * size, -1)
        to_prefix = jnp.swapaxes(patches[..., :p], 1, 2).reshape(*within.shape[:3], p)
        rows = jnp.concatenate([to_prefix, within], axis=-1)
        return jnp.concatenate([prefix, rows], axis=2) if p else rows

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        if self.plain:
            return weighted_sum(self.weigh(q, k, grid), v)
        if kernel := self.kernel_for(q.shape[0], self.num_heads * q.shape[-1], grid):
            return self._attend_fused(kernel, q, k, v, grid)
        p = grid.num_prefix
        group_v = self._split(v, grid)
        prefix_weights, weights = self._group_weights(q, k, grid)
        weights = self._drop_weights(weights, v, train)
        patches = jnp.einsum("bghmk,bgkhc->bgmhc", weights[..., p:], group_v)
        if not p:
            return patches.reshape(q.shape)
        patches += jnp.einsum("bghmp,bphc->bgmhc", weights[..., :p], v[:, :p])
        prefix = weighted_sum(self._drop_weights(prefix_weights, v, train, "prefix_dropout"), v)
        return jnp.concatenate([prefix, patches.reshape(q[:, p:].shape)], axis=1)

    def _split(self, x: Array, grid: Grid) -> Array:
        """Return the queries, keys or values of the patches of each group, (b, g, m, heads, c)."""
        size = math.prod(self._groups(grid).window)
        return x[:, grid.num_prefix :].reshape(len(x), -1, size, *x.shape[2:])

    def _group_weights(self, q: Array, k: Array, grid: Grid) -> tuple[Any, Array]:
        """Return the weights of the prefix tokens, None if there are none, and of each group.

        Returns:
          Weights (b, heads, p, p + g * m) and (b, g, heads, m, p + m) in at least float32.
        """
        q, k = self._rotate_qk(q, k, grid)
        groups = self._groups(grid)
        p = grid.num_prefix
        group_q, group_k = self._split(q, grid), self._split(k, grid)
        bias = self._bias(*groups.window, p)
        mask = self._mask(grid, groups)
        patch_bias = bias[:, p:, p:]
        if not mask.all():
            patch_bias = jnp.where(mask, patch_bias, kernels.MASKED)
        patch_scores = products("bgmhc,bgkhc->bghmk", group_q, group_k) + patch_bias
        if not p:
            return None, jax.nn.softmax(patch_scores)
        prefix_key_scores = products("bgmhc,bphc->bghmp", group_q, k[:, :p])
        prefix_key_scores = prefix_key_scores + bias[:, p:, :p]
        all_scores = jnp.concatenate([prefix_key_scores, patch_scores], axis=-1)
        prefix_bias = jnp.repeat(bias[:, :p, p : p + 1], q.shape[1] - p, axis=-1)
        prefix_query_scores = scores(q[:, :p], k)
        prefix_query_scores += jnp.concatenate([bias[:, :p, :p], prefix_bias], axis=-1)
        prefix_query_scores = jnp.where(self._is_token(grid), prefix_query_scores, kernels.MASKED)
        return jax.nn.softmax(prefix_query_scores), jax.nn.softmax(all_scores)

    def _attend_fused(
        self, kernel: kernels.Kernel, q: Array, k: Array, v: Array, grid: Grid
    ) -> Array:
        """Return the output of the patches, (b, g * m, heads, c); there are no prefix tokens."""
        rotated_q, rotated_k = self._rotate_qk(q, k, grid)
        groups = self._groups(grid)
        mask = self._mask(grid, groups)
        bias = None if self.bias is None else self._bias(*groups.window, 0)[None]
        if not mask.all():
            bias = jnp.where(mask, 0.0 if bias is None else bias, kernels.MASKED)
            bias = jnp.broadcast_to(bias, (len(q), *bias.shape)).reshape(-1, *bias.shape[1:])
        size = math.prod(groups.window)
        flat_q, flat_k, flat_v = (
            x.reshape(-1, size, *x.shape[2:]) for x in (rotated_q, rotated_k, v)
        )
        return kernel(flat_q, flat_k, flat_v, bias, size).reshape(q.shape)

    def _is_token(self, grid: Grid) -> np.ndarray:
        """Return which of the arranged tokens are not padding, (p + g * m,)."""
        is_token: np.ndarray = self._arrange(np.ones((1, grid.num_tokens, 1), bool), grid)
        return is_token[0, :, 0]

    def _mask(self, grid: Grid, groups: Groups) -> np.ndarray:
        """Return the mask (g, 1, m, m): whether a query of a group (first m) attends to a key."""
        regions = np.zeros((1, *groups.padded, 1), int)
        for axis, (size, shift) in enumerate(zip(groups.padded, groups.shift, strict=True)):
            # The roll brings opposite ends of the grid together; they do not attend to each other.
            coords = np.arange(size)
            region = (coords >= size - groups.window[axis]) * 1 + (coords >= size - shift)
            shape = [-1 if i == axis else 1 for i in range(3)]
            regions = 3 * regions + (region if shift else 0 * region).reshape(shape)
        regions = groups.split(regions).reshape(-1, math.prod(groups.window))
        mask = regions[:, :, None] == regions[:, None]
        if self.mask_padding:
            is_patch = self._is_token(grid)[grid.num_prefix :].reshape(regions.shape)
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


def _roll(x: Any, shift: tuple[int, int], sign: int) -> Any:
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.roll(x, [sign * size for size in shift], axis=(1, 2)) if any(shift) else x


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]
