"""Attention distance: how far in the image a head looks (ViT, figures 7, right, and 11)."""

import numpy as np
from jaxtyping import Float

from vit_jax.models.layers.grid import Grid


def attention_distance(
    weights: Float[np.ndarray, "b heads n m"], grid: Grid, image_size: tuple[int, int]
) -> Float[np.ndarray, " heads"]:
    """Return the mean distance in pixels between a query and its keys, weighted by the attention.

    As in Dosovitskiy et al. 2021, section D.7, over the patches alone: prefix tokens have no
    position. The weights of each query on patches are first divided by their sum. Of weights that
    can be negative, such as those of Linformer, the magnitude counts.

    Args:
      weights: Attention weights of b images. Keys after the n tokens are padding.
      grid: The layout of the tokens.
      image_size: Height and width in pixels, which the patches divide evenly.

    Returns:
      The mean over images and queries, by head.
    """
    end = grid.num_tokens
    patches = np.abs(np.float64(weights[..., grid.num_prefix : end, grid.num_prefix : end]))
    pixels = np.divide(image_size, grid[:2])
    coords = grid.coords[grid.num_prefix :] * pixels
    offsets = coords[:, None] - coords[None]
    distances = np.sqrt((offsets**2).sum(axis=-1))
    sums = patches.sum(axis=-1)
    weighted = np.einsum("bhnm,nm->bhn", patches, distances)
    return (weighted / np.maximum(sums, 1e-12)).mean(axis=(0, 2))
