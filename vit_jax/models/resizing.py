"""Parameters that depend on the grid of patches, the patch or the channels, for other ones."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb import resample


def resize_table(name: str, table: Any, shape: tuple[int, ...], model: Mapping[str, Any]) -> Any:
    """Return a parameter as the model uses it for images with another grid.

    Args:
      name: Name of the parameter, which `weights.adapt.TABLES` matches.
      table: The parameter, (h, w, d).
      shape: The new shape.
      model: The model section of a config.
    """
    height, width = shape[:2]
    if "/mix_" in name:  # weights of sums over the grid, which keep their total
        return resample(table, height, width) * (math.prod(table.shape[:2]) / (height * width))
    posemb = model["posemb"]
    return resample(table, height, width, posemb["interpolation"], posemb["antialias"])


def adapt_channels(kernel: Float[Array, "p q c d"], channels: int) -> Float[Array, "p q C d"]:
    """Return a kernel for pixels of another number of channels, as timm adapts it.

    For one channel it is the sum over all, so that grey gives what it gave as R = G = B. For more
    than one they are repeated in their order, and divided among as many as there are now.
    """
    have = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return jnp.take(kernel, np.arange(channels) % have, axis=2) * (have / channels)


def resize_patch(
    kernel: Float[Array, "p q c d"], patch: tuple[int, int]
) -> Float[Array, "P Q c d"]:
    """Return the kernel of a patch embedding for another size of patch.

    Where resizing a patch is x -> B x, it is pinv(B^T) w: of all kernels the one whose products
    with resized patches are the nearest to those of w with the patches themselves, and equal where
    a patch grows (Beyer et al. 2023, FlexiViT, section 3.4). B is bicubic, as in timm.
    """
    old = kernel.shape[:2]
    units = np.eye(math.prod(old), dtype=np.float32).reshape(*old, -1)
    resized = np.asarray(resample(jnp.asarray(units), *patch), np.float64)
    rounding = max(resized.shape[-1], math.prod(patch)) * np.finfo(np.float32).eps
    inverse = np.linalg.pinv(resized.reshape(math.prod(patch), -1).T, rcond=rounding)
    matrix = jnp.asarray(inverse.reshape(*patch, *old), kernel.dtype)
    return jnp.einsum("hwpq,pqcd->hwcd", matrix, kernel, precision="highest")
