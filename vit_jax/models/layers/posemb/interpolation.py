"""Resampling of grids of vectors to another height and width."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Resize = Callable[[Array, tuple[int, int, int], bool], Array]


def stored(
    module: nn.Module, name: str, init: Callable[..., Any], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Return a parameter in the shape that it was stored with; initialize it with `shape`."""
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
    """Resize a grid of vectors to another height and width; the same size is returned unchanged."""
    if grid.shape[:2] == (height, width):
        return grid
    return POSEMB_INTERPOLATIONS[interpolation](grid, (height, width, grid.shape[-1]), antialias)


def _by_jax(method: str) -> Resize:
    return lambda grid, shape, antialias: jax.image.resize(
        grid, shape, method=method, antialias=antialias
    )


def _by_rows_and_columns(weights: Callable[[int, int], np.ndarray]) -> Resize:
    """Make a separable method from the weights (new, old) along one dimension."""

    def resize(grid: Array, shape: tuple[int, int, int], antialias: bool) -> Array:
        rows, columns = (weights(grid.shape[i], shape[i]).astype(grid.dtype) for i in (0, 1))
        return jnp.einsum("hi,wj,ijd->hwd", rows, columns, grid, precision="highest")

    return resize


def _spline(old: int, new: int) -> np.ndarray:
    """Linear, with first and last positions aligned (scipy.ndimage.zoom, order 1)."""
    positions = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(old)))


def _bicubic_torch(old: int, new: int) -> np.ndarray:
    """Keys' kernel with a = -0.75, the edge repeated (torch's bicubic without antialiasing)."""
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
    """Linear between old offsets in geometric progression, dense around the middle (BEiT).

    Both sizes are odd, as tables of offsets are. The ratio of the progression is the one between
    1.01 and 1.5 for which the old offsets best span the new ones; it is found by bisection.
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


# How position tables are resampled. Only the first four, those of jax.image, can antialias. The
# others are what published weights were made with: `spline` in Google's Vision Transformer,
# `bicubic_torch` in Hugging Face, DINOv2 and Swin, and `geometric`, for tables of offsets only, in
# timm's Swin.
POSEMB_INTERPOLATIONS: dict[str, Resize] = {
    "nearest": _by_jax("nearest"),
    "bilinear": _by_jax("bilinear"),
    "bicubic": _by_jax("bicubic"),
    "lanczos3": _by_jax("lanczos3"),
    "spline": _by_rows_and_columns(_spline),
    "bicubic_torch": _by_rows_and_columns(_bicubic_torch),
    "geometric": _by_rows_and_columns(_geometric),
}
