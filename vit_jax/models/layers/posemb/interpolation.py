"""Grids of vectors made for another height and width."""

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
    """Returns a parameter of a module in the size that it has, or makes it in this one."""
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
    """Resizes a grid of vectors to another height and width; the same size is returned as it is."""
    if grid.shape[:2] == (height, width):
        return grid
    return INTERPOLATIONS[interpolation](grid, (height, width, grid.shape[-1]), antialias)


def _by_jax(method: str) -> Resize:
    return lambda grid, shape, antialias: jax.image.resize(
        grid, shape, method=method, antialias=antialias
    )


def _by_rows_and_columns(weights: Callable[[int, int], np.ndarray]) -> Resize:
    """Makes a method from the weights (new, old) of the old places in each new one."""

    def resize(grid: Array, shape: tuple[int, int, int], antialias: bool) -> Array:
        rows, columns = (weights(grid.shape[i], shape[i]).astype(grid.dtype) for i in (0, 1))
        return jnp.einsum("hi,wj,ijd->hwd", rows, columns, grid, precision="highest")

    return resize


def _spline(old: int, new: int) -> np.ndarray:
    """Linear between neighbours, the first and last places kept (scipy.ndimage.zoom, order 1)."""
    places = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))


def _bicubic_torch(old: int, new: int) -> np.ndarray:
    """Keys' kernel with a = -0.75, the edge repeated (torch's bicubic without antialiasing)."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    near = np.floor(places).astype(int)[:, None] + np.arange(-1, 3)
    x, a = np.abs(places[:, None] - near), -0.75
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.zeros((new, old))
    rows = np.broadcast_to(np.arange(new)[:, None], near.shape)
    np.add.at(weights, (rows, near.clip(0, old - 1)), np.where(x <= 1, inner, outer))
    return weights


def _geometric(old: int, new: int) -> np.ndarray:
    """Linear between offsets that lie the wider the farther they are from the middle (BEiT).

    Both sizes are odd: of tables of offsets. They grow by a ratio between 1.01 and 1.5, with which
    the old table spans the new one as well as it can.
    """
    half, target = old // 2, new // 2
    if not half:
        return np.ones((new, 1))
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**half) / (1 - ratio) > target else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(half))
    known = np.concatenate([-steps[::-1], [0.0], steps])
    places = np.clip(np.arange(-target, target + 1.0), known[0], known[-1])
    left = np.clip(np.searchsorted(known, places, side="right") - 1, 0, old - 2)
    share = (places - known[left]) / (known[left + 1] - known[left])
    weights = np.zeros((new, old))
    weights[np.arange(new), left] = 1 - share
    weights[np.arange(new), left + 1] = share
    return weights


# How a learned grid gets another size. Antialiasing is for jax.image's methods, the first four;
# the others are those of weights that were made with them: `spline` of Google's Vision
# Transformer, `bicubic_torch` of Hugging Face, DINOv2 and Swin; `geometric`, of timm's Swin, is for
# tables of offsets only.
INTERPOLATIONS: dict[str, Resize] = {
    "nearest": _by_jax("nearest"),
    "bilinear": _by_jax("bilinear"),
    "bicubic": _by_jax("bicubic"),
    "lanczos3": _by_jax("lanczos3"),
    "spline": _by_rows_and_columns(_spline),
    "bicubic_torch": _by_rows_and_columns(_bicubic_torch),
    "geometric": _by_rows_and_columns(_geometric),
}
