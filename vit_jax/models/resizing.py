"""Adapt parameters to another patch grid, patch size or number of channels."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb import resample


def resize_table(name: str, table: Any, shape: tuple[int, ...], model: Mapping[str, Any]) -> Any:
    """Return a position table for another patch grid, as the model itself resamples it.

    Args:
      name: Name of the parameter; it must match `weights.adapt.TABLES`.
      table: The parameter, (h, w, d).
      shape: New shape, (height, width, d).
      model: The model section of a config.
    """
    height, width = shape[:2]
    if "/mix_" in name:  # Linformer: the weights of a sum over the grid keep their total
        return resample(table, height, width) * (math.prod(table.shape[:2]) / (height * width))
    posemb = model["posemb"]
    return resample(table, height, width, posemb["interpolation"], posemb["antialias"])


def adapt_channels(kernel: Float[Array, "p q c d"], channels: int) -> Float[Array, "p q C d"]:
    """Return the kernel of a stem for another number of input channels, as timm adapts it.

    For one channel it is the sum over the old channels, so that a grey image gives the output that
    it gave as RGB with R = G = B. For more channels the old ones are repeated in order and scaled
    by old / new number of channels.

    Args:
      kernel: The kernel.
      channels: New number of channels.
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return jnp.take(kernel, np.arange(channels) % old, axis=2) * (old / channels)


def resize_patch(
    kernel: Float[Array, "p q c d"], patch: tuple[int, int]
) -> Float[Array, "P Q c d"]:
    """Return the kernel of a patch embedding for another patch size.

    This is FlexiViT's pseudo-inverse resize (Beyer et al. 2023, section 3.4). If resizing a patch
    is x -> B x, the new kernel is pinv(B^T) w. Its products with resized patches are closest to
    those of w with the original patches, and equal to them if the patch grows. B is bicubic, as in
    timm.

    Args:
      kernel: The kernel w.
      patch: New height and width in pixels.
    """
    old = kernel.shape[:2]
    units = np.eye(math.prod(old), dtype=np.float32).reshape(*old, -1)
    resized = np.asarray(resample(jnp.asarray(units), *patch), np.float64)
    rounding = max(resized.shape[-1], math.prod(patch)) * np.finfo(np.float32).eps
    inverse = np.linalg.pinv(resized.reshape(math.prod(patch), -1).T, rcond=rounding)
    matrix = jnp.asarray(inverse.reshape(*patch, *old), kernel.dtype)
    return jnp.einsum("hwpq,pqcd->hwcd", matrix, kernel, precision="highest")
