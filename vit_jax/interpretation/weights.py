"""The weights of attention, for each head of any layer."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.interpretation import hooks
from vit_jax.interpretation.hooks import attention_layers
from vit_jax.models.layers.grid import Grid

__all__ = ["AttentionMap", "attention_layers", "attention_maps"]


class AttentionMap(NamedTuple):
    """The weights of a layer: how much of each value is in the output of each token.

    Attributes:
      weights: Weights of n queries and m keys, in at least float32. The tokens are in the order of
        the grid, prefix tokens first. If padding of windows takes weight, as in the published Swin
        models, its columns follow those of the n tokens; otherwise m = n.
      grid: Layout of the tokens.
      kind: What the weights are, such as a softmax over all tokens.
    """

    weights: Float[Array, "b heads n m"]
    grid: Grid
    kind: str


def attention_maps(
    model: models.Transformer,
    variables: Mapping[str, Any],
    images: Float[Array, "b H W c"],
    layers: Sequence[str],
) -> dict[str, AttentionMap]:
    """Return the attention weights of some layers, computed again from the inputs of the layers.

    Every kernel, `scan` and `remat` give the same weights. The sums of a layer's values with these
    weights, projected, are its output.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
      layers: Names from `attention_layers`; and `pool` for attention pooling, where the only query
        is the probe, and the keys are the patches.

    Returns:
      The weights by layer. One layer of b images takes 4 b heads n m bytes.

    Raises:
      ConfigError: There is no such layer, or its attention has no weights over tokens.
      TypeError: `layers` is a string instead of a sequence of strings.
    """
    if isinstance(layers, str):
        raise TypeError(f"attention_maps: expected a sequence of names, got '{layers}'")
    weights = _weights(model, variables, images, tuple(layers))
    grids = hooks.grids(model, images.shape)
    kinds = {hooks.POOL: "softmax over the patches"}
    kind = model.attention.module.weights
    return {
        layer: AttentionMap(weights[layer], grids[layer], kinds.get(layer, kind))
        for layer in layers
    }


@functools.partial(jax.jit, static_argnames=("model", "layers"))
def _weights(
    model: models.Transformer, variables: Any, images: Array, layers: tuple[str, ...]
) -> dict[str, Array]:
    _, weights = hooks.run(model, variables, images, layers, lambda module, weights: weights)
    return weights
