"""Resampling of grids of vectors to another height and width."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Resize = Callable[[Array, tuple[int, int, int], bool], Array]


def resizable_param(
    module: nn.Module, name: str, init: Callable[..., Any], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Declare a parameter that may have another shape than `shape`, such as a table to resample.

    Args:
      module: The module of the parameter.
      name: Name of the parameter.
      init: Initializer.
      shape: Shape for the initialization.

    Returns:
      The parameter in the shape that it has in the variables; `nn.Module.param` would refuse any
      other shape than `shape`.
    """
    if module.has_variable("params", name) and not module.is_initializing():
        return nn.unbox(module.get_variable("params", name))
    return module.param(name, init, shape, jnp.float32)


def resample(
    grid: Float[Array, "h w d"],
    height: int,
    width: int,
    interpolation: str = "bicubic",
    antialias: bool = True,
) -> Float[Array, "height width d"]:
    """Resample a grid of vectors to another height and width.

    Args:
      grid: The grid.
      height: New height.
      width: New width.
      interpolation: A name of `POSEMB_INTERPOLATIONS`.
      antialias: Whether methods of `jax.image` smooth the grid before they shrink it.

    Returns:
      The resampled grid, or `grid` itself if it has this size already.
    """
    if grid.shape[:2] == (height, width):
        return grid
    return POSEMB_INTERPOLATIONS[interpolation](grid, (height, width, grid.shape[-1]), antialias)


def _jax_image(method: str) -> Resize:
    return lambda grid, shape, antialias: jax.image.resize(
        grid, shape, method=method, antialias=antialias
    )


def _separable(weights: Callable[[int, int], np.ndarray]) -> Resize:
    """Return a separable method, given a function for the weights (new, old) of one axis."""

    def resize(grid: Array, shape: tuple[int, int, int], antialias: bool) -> Array:
        rows, columns = (weights(grid.shape[i], shape[i]).astype(grid.dtype) for i in (0, 1))
        return jnp.einsum("hi,wj,ijd->hwd", rows, columns, grid, precision="highest")

    return resize


def _spline(old: int, new: int) -> np.ndarray:
    """Return linear weights with aligned corners, as scipy.ndimage.zoom with order 1."""
    positions = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(old)))


def _bicubic_torch(old: int, new: int) -> np.ndarray:
    """Return bicubic weights (Keys 1981, a = -0.75) with repeated edges, as torch's interpolate."""
    positions = (np.arange(new) + 0.5) * old / new - 0.5
    neighbours = np.floor(positions).astype(int)[:, None] + np.arange(-1, 3)
    x = np.abs(positions[:, None] - neighbours)
    a = -0.75
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.zeros((new, old))
    rows = np.broadcast_to(np.arange(new)[:, None], neighbours.shape)
    np.add.at(weights, (rows, neighbours.clip(0, old - 1)), np.where(x <= 1, inner, outer))
    return weights


def _geometric(old: int, new: int) -> np.ndarray:
    """Return linear weights between old offsets in geometric progression (BEiT's fine-tuning code).

    Both sizes are odd, because tables of offsets are. The old offsets are densest at 0. Bisection
    finds the ratio of the progression, from 1.01 to 1.5, with which they span the new offsets.
    """
    old_half = old // 2
    new_half = new // 2
    if not old_half:
        return np.ones((new, 1))
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**old_half) / (1 - ratio) > new_half:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(old_half))
    old_offsets = np.concatenate([-steps[::-1], [0.0], steps])
    offsets = np.clip(np.arange(-new_half, new_half + 1.0), old_offsets[0], old_offsets[-1])
    left = np.clip(np.searchsorted(old_offsets, offsets, side="right") - 1, 0, old - 2)
    fraction = (offsets - old_offsets[left]) / (old_offsets[left + 1] - old_offsets[left])
    weights = np.zeros((new, old))
    weights[np.arange(new), left] = 1 - fraction
    weights[np.arange(new), left + 1] = fraction
    return weights


# Methods to resample position tables. Only the first four, which are those of jax.image, support
# antialiasing. The others are needed for published weights: `spline` for Google's, `bicubic_torch`
# for Hugging Face's, DINOv2 and Swin, and `geometric`, only for tables of offsets, for timm's Swin.
POSEMB_INTERPOLATIONS: dict[str, Resize] = {
    "nearest": _jax_image("nearest"),
    "bilinear": _jax_image("bilinear"),
    "bicubic": _jax_image("bicubic"),
    "lanczos3": _jax_image("lanczos3"),
    "spline": _separable(_spline),
    "bicubic_torch": _separable(_bicubic_torch),
    "geometric": _separable(_geometric),
}
