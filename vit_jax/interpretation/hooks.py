"""Forward passes in which the weights of attention are read, or changed by a perturbation.

The attention of the model takes its plain form, whatever kernel it runs with: the output of each
layer is the sum of its values with the weights that are read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.errors import ConfigError, suggest
from vit_jax.models import stacking
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import Attention, CrossAttention
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.pools import MultiheadAttention
from vit_jax.models.parts import name_of

POOL = "pool"  # the layer of attention pooling, whose only query is the probe

# Maps the module and its weights (b, heads, n, m), in the order of the grid, to what is kept.
Keep = Callable[[Attention | CrossAttention, Array], Any]


def attention_layers(model: models.Transformer) -> tuple[str, ...]:
    """Return the names of the blocks, such as `blocks_0`, whose attention can be looked at.

    Args:
      model: The model.
    """
    return tuple(name for names in model.block_names for name in names)


def grids(model: models.Transformer, shape: Sequence[int]) -> dict[str, Grid]:
    """Return the layout of the keys of each layer, `pool` included.

    Args:
      model: The model.
      shape: Shape of the images, (b, H, W, c).
    """
    stages = model.grids((shape[1], shape[2]))
    pairs = zip(model.block_names, stages, strict=True)
    layers = {name: grid for names, grid in pairs for name in names}
    return {**layers, POOL: stages[-1]._replace(num_prefix=0)}


def has_probe(model: models.Transformer) -> bool:
    """Return whether the model pools its tokens by attention, with a probe as the only query."""
    return issubclass(model.pool.module, MultiheadAttention)


def run(
    model: models.Transformer,
    variables: Mapping[str, Any],
    images: Float[Array, "b H W c"],
    layers: Sequence[str],
    keep: Keep,
    perturbations: Mapping[str, Float[Array, "b heads n m"]] | None = None,
) -> tuple[models.Output, dict[str, Any]]:
    """Apply a model in evaluation mode, and keep something of the weights of some layers.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
      layers: Names of blocks, or `pool` for attention pooling.
      keep: What is kept of the weights.
      perturbations: Arrays by layer that are added to the weights.

    Returns:
      The output of the model, and what is kept, by layer.

    Raises:
      ConfigError: There is no such layer, or its attention has no weights over tokens.
    """
    _check(model, layers)
    perturbations = perturbations or {}
    kept: dict[str, Any] = {}
    layouts = grids(model, images.shape)
    active: set[str] = set()  # layers whose `weigh` calls that of the class that it extends

    def read(
        next_method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module: Any = context.module
        layer = module.path[0] if module.path else ""
        if context.method_name != "weigh" or layer not in layers or layer in active:
            return next_method(*args, **kwargs)
        active.add(layer)
        weights = next_method(*args, **kwargs)
        active.remove(layer)
        where = _order(module, weights, layouts[layer])
        if layer in perturbations:
            weights = weights.at[where].add(perturbations[layer])
        kept[layer] = keep(module, weights[where])
        return weights

    stacks = stacking.find_stacks(model)
    with nn.intercept_methods(read):
        output = models.forward(_plain(model), stacking.unstack(dict(variables), stacks), images)
    for layer in layers:
        if layer not in kept:
            name = name_of(model.attention, ATTENTIONS)
            problem = f"{name} has no weights over tokens to look at"
            reason = f"its weights: {model.attention.module.weights}"
            raise ConfigError("model.attention.name", f"{problem}; {reason}")
    return output, kept


def _order(module: Any, weights: Array, grid: Grid) -> tuple[Any, ...]:
    """Return the index that brings the weights of a layer into the order of the grid."""
    if not isinstance(module, Attention):
        return ()
    queries, keys = module.order(grid)
    in_order = all(
        np.array_equal(index, np.arange(size))
        for index, size in zip((queries, keys), weights.shape[2:], strict=True)
    )
    every = slice(None)
    return () if in_order else (every, every, queries[:, None], keys)


def _check(model: models.Transformer, layers: Sequence[str]) -> None:
    """Refuse names that are no layers with attention."""
    known = attention_layers(model)
    if has_probe(model):
        known = (*known, POOL)
    for layer in layers:
        if layer not in known:
            raise ConfigError("layers", f"unknown '{layer}'; {suggest(layer, known)}")


def _plain(model: models.Transformer) -> models.Transformer:
    """Return the same model with its attention in the plain form, and its blocks one by one."""
    fields = model.attention.fields.copy({"plain": True})
    attention = models.Part(model.attention.module, fields)
    plain: models.Transformer = model.clone(attention=attention, scan=False, remat="none")
    return plain
