"""The variables of a model before training: random values, or only their shapes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def init_variables(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Return random `params` and all other collections, boxed with the names of their axes.

    Args:
      model: The model.
      image_shape: (height, width, channels).
      seed: Initialization seed.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return dict(model.init(jax.random.key(seed), images, train=False))


def abstract_variables(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the shapes of all variables, boxed likewise, without computing them."""
    return jax.eval_shape(lambda: init_variables(model, image_shape, 0))
