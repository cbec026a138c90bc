"""What a model knows of positions: similarity of embeddings (ViT, figure 7, centre), or biases."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.errors import ConfigError
from vit_jax.models import Transformer, forward
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.posemb.relative import Relative
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


def position_bias(
    model: Transformer, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> dict[str, Float[np.ndarray, "heads h w"]]:
    """Return the bias of the attention scores by the offset of a key from its query, by block.

    Args:
      model: A model whose position embedding is such a bias.
      variables: Its `params` and other collections.
      image_shape: Height, width and channels of an image.

    Returns:
      Biases with offset 0 in the centre: (2 height - 1, 2 width - 1) for a grid or a window of this
      height and width in patches.
    """
    calls: dict[str, tuple[Relative, tuple[int, int, int]]] = {}

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, Relative) and context.method_name == "__call__":
            calls["/".join(context.module.path)] = (context.module.clone(parent=None), args)
        return call(*args, **kwargs)

    plain = model.clone(scan=False, remat="none")
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: forward(plain, variables, x).logits, images)
    found = {}
    for path, (module, sizes) in calls.items():
        params: Any = variables["params"]
        for name in path.split("/"):
            params = params[name]
        bias = module.apply({"params": params}, *sizes)
        found[path.split("/")[0]] = _by_offset(np.asarray(bias), *sizes)
    return found


def _by_offset(bias: np.ndarray, height: int, width: int, num_prefix: int) -> np.ndarray:
    """Return a bias (heads, n, n) of queries and keys as (heads, 2 height - 1, 2 width - 1)."""
    rows, columns = np.divmod(np.arange(height * width), width)
    down = rows[None] - rows[:, None] + height - 1
    right = columns[None] - columns[:, None] + width - 1
    table = np.zeros((len(bias), 2 * height - 1, 2 * width - 1), np.float32)
    table[:, down, right] = bias[:, num_prefix:, num_prefix:]
    return table
