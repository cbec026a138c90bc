"""Initial variables of a model: random values, or only shapes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def init_variables(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Return the initial `params` and all other collections.

    Args:
      model: The model.
      image_shape: (height, width, channels).
      seed: Random seed.

    Returns:
      The variables, boxed with the logical names of their axes (`nn.LogicallyPartitioned`).
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return dict(model.init(jax.random.key(seed), images, train=False))


def abstract_variables(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the shapes and dtypes of the variables of `init_variables`, without computing them."""
    return jax.eval_shape(lambda: init_variables(model, image_shape, 0))
