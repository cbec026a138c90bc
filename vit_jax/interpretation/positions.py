"""Similarity of the position embeddings of a model (ViT, figure 7, centre)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vit_jax.errors import ConfigError
from vit_jax.models import Transformer
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.parts import name_of

# What a position embedding does that adds no vector to a patch, by where it acts.
_NO_VECTORS = {
    "rotary": "rotates queries and keys",
    "bias": "adds a bias to the attention scores",
    "first_block": "is a convolution after the first block",
    "": "adds nothing",
}


def position_embedding(
    model: Transformer, variables: Mapping[str, Any], image_size: tuple[int, int]
) -> Float[np.ndarray, "h w d"]:
    """Return the vector that the model adds to the patch at each position.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      image_size: Height and width in pixels. A learned table is resampled to the grid of patches.

    Raises:
      ConfigError: The model adds no vector to its patches.
    """
    site = model.posemb.module.site
    if site != "tokens":
        name = name_of(model.posemb, POSEMBS)
        problem = f"expected vectors that are added to the patches; {name} {_NO_VECTORS[site]}"
        raise ConfigError("model.posemb", problem)
    grid = model.grids(image_size)[0]
    params = variables["params"].get("posemb", {})
    module = model.posemb(num_prefix=0, parent=None)
    _, positions = module.apply({"params": params}, grid.height, grid.width, model.width)
    return np.asarray(positions, np.float32)


def position_similarity(
    positions: Float[np.ndarray, "h w d"],
) -> Float[np.ndarray, "h w h w"]:
    """Return the cosine similarity of the embedding of each position, first, with all others."""
    vectors = np.asarray(positions, np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    return np.einsum("ijd,kld->ijkl", unit, unit).astype(np.float32)
