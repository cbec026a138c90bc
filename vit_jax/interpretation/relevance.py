"""Relevance of the patches for a class, from attention and its gradients (Chefer et al. 2021)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.interpretation import hooks
from vit_jax.interpretation.propagation import Saliency, propagate, read, readout_of


def relevance(
    model: models.Transformer,
    variables: Mapping[str, Any],
    images: Float[Array, "b H W c"],
    classes: Sequence[int] | Int[Array | np.ndarray, " b"],
) -> Saliency:
    """Return how much each patch speaks for one class of its image.

    A layer with the weights A has the matrix M = E_h[(dy/dA * A)^+], where y is the logit of the
    class and E_h the mean over the heads (Chefer et al. 2021, "Generic Attention-model
    Explainability", eq. 5). From R = I, each layer adds M R to R (eq. 6). The weight of padding is
    left out. Between the stages of Swin, the row of a merged token is the mean of the rows of the
    tokens that it is made of.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
      classes: Index of a class for each image.

    Returns:
      The relevances, at least 0 and without a unit, and the tokens that they are read from. The
      mean of n patches has 1 / n of each patch from R = I alone.

    Raises:
      ConfigError: The model has no head, there is no such class, or its attention has no weights
        over tokens.
    """
    if not model.num_classes:
        raise ConfigError("model.num_classes", "relevance is of a class, but there is no head")
    chosen = np.asarray(classes)
    is_valid = chosen.dtype.kind in "iu" and chosen.shape == images.shape[:1]
    if not is_valid or (chosen < 0).any() or (chosen >= model.num_classes).any():
        expected = f"expected {len(images)} integers from 0 to {model.num_classes - 1}"
        raise ConfigError("classes", f"{expected}, got {classes}")
    layers = hooks.attention_layers(model)
    layers += (hooks.POOL,) if hooks.has_probe(model) else ()
    readout = readout_of(model, layers[-1])
    return Saliency(_relevance(model, variables, images, chosen, layers, readout), readout)


@functools.partial(jax.jit, static_argnames=("model", "layers", "readout"))
def _relevance(
    model: models.Transformer,
    variables: Any,
    images: Array,
    classes: Array,
    layers: tuple[str, ...],
    readout: str,
) -> Array:
    def logits(perturbations: dict[str, Array] | None) -> tuple[Array, dict[str, Array]]:
        """Return the sum of the logits of the classes, and the weights; images do not interact."""
        output, weights = hooks.run(
            model, variables, images, layers, lambda module, weights: weights, perturbations
        )
        return jnp.take_along_axis(output.logits, classes[:, None], axis=-1).sum(), weights

    _, shapes = jax.eval_shape(lambda: logits(None))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    gradients, weights = jax.grad(logits, has_aux=True)(zeros)
    grids = hooks.grids(model, images.shape)
    matrices = {
        layer: _step(gradients[layer] * weights[layer], grids[layer].num_tokens, layer)
        for layer in layers
    }
    return read(propagate(matrices, grids), readout, grids[layers[0]], grids[layers[-1]])


def _step(products: Array, num_tokens: int, layer: str) -> Array:
    """Return I + M of a layer, or M for attention pooling, which has no residual connection."""
    mean = jnp.mean(jnp.maximum(products, 0), axis=1)[..., :num_tokens]
    return mean if layer == hooks.POOL else jnp.eye(num_tokens) + mean
