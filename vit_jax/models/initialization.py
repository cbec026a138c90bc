"""The parameters of a model before training: random values, or their shapes alone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def init_params(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> Any:
    """Returns random parameters with the names of their dimensions.

    Args:
      model: The model.
      image_shape: Height, width and channels.
      seed: Of the random values.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return model.init(jax.random.key(seed), images, train=False)["params"]


def abstract_params(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    """Returns the shapes of the parameters with the names of their dimensions; computes nothing."""
    return jax.eval_shape(lambda: init_params(model, image_shape, 0))
