"""Attention rollout (Abnar and Zuidema 2020): how attention mixes the patches up to a layer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.interpretation import hooks
from vit_jax.interpretation.propagation import Saliency, propagate, read, readout_of
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.parts import name_of

# How the weights of the heads of a layer, (b, heads, n, m), become one matrix.
FUSIONS: dict[str, Callable[..., Array]] = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}


def rollout(
    model: models.Transformer,
    variables: Mapping[str, Any],
    images: Float[Array, "b H W c"],
    *,
    fusion: str = "mean",
    through: str = "",
) -> Saliency:
    """Return the share of each patch in the result, if attention alone mixed the tokens.

    A layer with the weights W has the matrix A = 0.5 W + 0.5 I, for the residual connection, with
    rows that sum to one; the rollout is the product of these matrices (Abnar and Zuidema 2020,
    eq. 1). The weight of padding is left out. Between the stages of Swin, a merged token has the
    mean shares of the tokens that it is made of.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
      fusion: How the heads become one: a name of `FUSIONS`; the paper has `mean`.
      through: Name of the last layer; empty: all layers, and attention pooling if there is any.

    Returns:
      The shares, and the tokens that they are read from. The shares of an image sum to one with
      those of the prefix tokens.

    Raises:
      ConfigError: There is no such layer or fusion, or the weights of the attention may be
        negative.
    """
    pick(FUSIONS, fusion, "fusion")
    layers = hooks.attention_layers(model)
    if through and through not in layers:
        raise ConfigError("through", f"unknown '{through}'; {suggest(through, layers)}")
    if through:
        layers = layers[: layers.index(through) + 1]
    elif hooks.has_probe(model):
        layers = (*layers, hooks.POOL)
    readout = readout_of(model, layers[-1])
    return Saliency(_rollout(model, variables, images, layers, fusion, readout), readout)


@functools.partial(jax.jit, static_argnames=("model", "layers", "fusion", "readout"))
def _rollout(
    model: models.Transformer,
    variables: Any,
    images: Array,
    layers: tuple[str, ...],
    fusion: str,
    readout: str,
) -> Array:
    def fuse(module: Any, weights: Array) -> Array:
        """Return the matrix of a layer over its tokens, without padding."""
        if isinstance(module, CrossAttention):
            return _normalize(FUSIONS[fusion](weights, axis=1))
        if not module.is_mixture:
            name = name_of(model.attention, ATTENTIONS)
            problem = f"rollout mixes tokens, but weights of {name} may be negative"
            raise ConfigError("model.attention.name", f"{problem}; use relevance")
        num_tokens = weights.shape[2]
        fused = _normalize(FUSIONS[fusion](weights[..., :num_tokens], axis=1))
        return 0.5 * fused + 0.5 * jnp.eye(num_tokens)

    _, matrices = hooks.run(model, variables, images, layers, fuse)
    grids = hooks.grids(model, images.shape)
    shares = propagate({layer: matrices[layer] for layer in layers}, grids)
    return read(shares, readout, grids[layers[0]], grids[layers[-1]])


def _normalize(weights: Array) -> Array:
    """Return the weights divided by the sum of each row; rows of zeros stay zero."""
    sums = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(sums > 0, sums, 1)
