"""Attention maps of single heads over the patches."""

import numpy as np
from jaxtyping import Float

from vit_jax.interpretation.propagation import READOUTS, readout_of
from vit_jax.interpretation.weights import AttentionMap
from vit_jax.models import Transformer


def head_maps(
    model: Transformer, layer: str, found: AttentionMap
) -> Float[np.ndarray, "b heads h w"]:
    """Return how much of each patch a layer passes to the tokens that the model reads in the end.

    Args:
      model: The model.
      layer: Name of the layer.
      found: Its attention weights.

    Returns:
      Weights, from the queries that `propagation.readout_of` names: the class token, for example,
      or the mean of the patches. Those on prefix tokens and padding are left out.
    """
    height, width, num_prefix = found.grid
    batch, num_heads, queries, keys = found.weights.shape
    rows = READOUTS[readout_of(model, layer)](
        found.weights.reshape(batch * num_heads, queries, keys), num_prefix
    )
    patches = np.asarray(rows)[:, num_prefix : found.grid.num_tokens]
    return patches.reshape(batch, num_heads, height, width)
