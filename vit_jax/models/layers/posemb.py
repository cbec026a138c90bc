"""Position embeddings: what tells a patch where it is, on a grid of any size.

Every entry of `POSEMBS` is called as `posemb(num_prefix, ...)(height, width, dim)` and returns the
embedding of the prefix tokens, (p, d), and of the grid, (h, w, d).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Resize = Callable[[Array, tuple[int, int, int], bool], Array]
Embedding = tuple[Float[Array, "p d"], Float[Array, "h w d"]]


class Learned(nn.Module):
    """A learned vector for each place of the grid, and for each prefix token.

    The grid of the parameter is that of the images it was initialized with; images of another size
    get it resampled.
    """

    num_prefix: int
    interpolation: str = "bicubic"
    antialias: bool = True

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Returns the embedding for a grid of this height and width."""
        init = nn.initializers.normal(0.02)
        prefix: Any = jnp.zeros((0, dim))
        if self.num_prefix:
            boxed = nn.with_logical_partitioning(init, (None, "embed"))
            prefix = self.param("prefix", boxed, (self.num_prefix, dim), jnp.float32)
        if self.has_variable("params", "grid") and not self.is_initializing():
            grid = nn.unbox(self.get_variable("params", "grid"))
        else:
            boxed = nn.with_logical_partitioning(init, (None, None, "embed"))
            grid = self.param("grid", boxed, (height, width, dim), jnp.float32)
        return prefix, resample(grid, height, width, self.interpolation, self.antialias)


class SinCos2d(nn.Module):
    """Fixed sines and cosines of row and column, a quarter of the channels each.

    As in MoCo v3 (Chen et al. 2021) and the plain ViT baselines (Beyer et al. 2022). Prefix tokens
    get zeros. The width must be a multiple of 4.
    """

    num_prefix: int
    interpolation: str = "bicubic"  # nothing to resample: the formula holds for any grid
    antialias: bool = True
    temperature: float = 10_000.0

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Returns the embedding for a grid of this height and width."""
        quarter = dim // 4
        omega = self.temperature ** (-jnp.arange(quarter) / (quarter - 1))
        rows = jnp.arange(height)[:, None] * omega
        columns = jnp.arange(width)[:, None] * omega
        rows = jnp.broadcast_to(rows[:, None], (height, width, quarter))
        columns = jnp.broadcast_to(columns[None], (height, width, quarter))
        waves = (jnp.sin(columns), jnp.cos(columns), jnp.sin(rows), jnp.cos(rows))
        return jnp.zeros((self.num_prefix, dim)), jnp.concatenate(waves, axis=-1)


POSEMBS: dict[str, type[nn.Module]] = {"learned": Learned, "sincos2d": SinCos2d}


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


# How a learned grid gets another size. Antialiasing is for jax.image's methods, the first four;
# the others are those of weights that were made with them: `spline` of Google's Vision
# Transformer, `bicubic_torch` of Hugging Face and DINOv2.
INTERPOLATIONS: dict[str, Resize] = {
    "nearest": _by_jax("nearest"),
    "bilinear": _by_jax("bilinear"),
    "bicubic": _by_jax("bicubic"),
    "lanczos3": _by_jax("lanczos3"),
    "spline": _by_rows_and_columns(_spline),
    "bicubic_torch": _by_rows_and_columns(_bicubic_torch),
}
