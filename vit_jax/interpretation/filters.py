"""The first filters of a model: the kernel that its images meet first (ViT, figure 7, left)."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.interpretation.components import principal_components
from vit_jax.models import Transformer


def first_filters(
    model: Transformer, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> Float[np.ndarray, "d h w c"]:
    """Return the filters of the first convolution of the stem.

    For the stem `patch` they are the rows of the linear projection of a patch (Dosovitskiy et al.
    2021, eq. 1).

    Args:
      model: The model.
      variables: Its `params` and other collections.
      image_shape: Height, width and channels of an image.
    """
    kernels = []

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.has_variable("params", "kernel"):
            kernels.append("/".join(context.module.path))
        return call(*args, **kwargs)

    stem = model.stem(width=model.width, dtype=model.dtype, pad=True, parent=None)
    of_stem = {name: tree["stem"] for name, tree in variables.items() if "stem" in tree}
    with nn.intercept_methods(record):
        jax.eval_shape(
            lambda images: stem.apply(of_stem, images, train=False), jnp.zeros((1, *image_shape))
        )
    module = of_stem["params"]
    for name in kernels[0].split("/"):
        module = module[name]
    return np.asarray(module["kernel"], np.float32).transpose(3, 0, 1, 2)


def filter_components(
    filters: Float[np.ndarray, "d h w c"], count: int = 28
) -> tuple[Float[np.ndarray, "k h w c"], Float[np.ndarray, " k"]]:
    """Return the principal components of filters, and the share of the variance of each.

    Args:
      filters: The filters.
      count: Number of components, 28 as in the figure of the ViT paper.
    """
    found = principal_components(filters.reshape(len(filters), -1), count)
    return found.directions.reshape(-1, *filters.shape[1:]), found.shares
