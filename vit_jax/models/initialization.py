"""The parameters of a model before training: random values, or only their shapes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def init_params(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> Any:
    """Return random parameters, boxed with the logical names of their axes.

    Args:
      model: The model.
      image_shape: (height, width, channels).
      seed: Initialization seed.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return model.init(jax.random.key(seed), images, train=False)["params"]


def abstract_params(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    """Return the shapes of the parameters, boxed likewise, without computing them."""
    return jax.eval_shape(lambda: init_params(model, image_shape, 0))
