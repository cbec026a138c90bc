"""Features of an image from any layer of a model: how its tokens become one vector, or stay tokens.

Shapes: b images, n tokens, height h and width w in patches, width d.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.errors import ConfigError, pick
from vit_jax.models.layers.grid import Grid

# Number of images for which shapes are computed, without any images: a large prime, so that no
# layer has as many windows, heads or tokens in the place of the images.
BATCH = 10_007


class Pool(NamedTuple):
    """A reduction of the tokens (b, n, d) of a grid, without padding, and its name in a line."""

    apply: Callable[[Float[Array, "b n d"], Grid], Float[Array, "b ..."]]
    text: str


POOLS: dict[str, Pool] = {
    "cls": Pool(lambda tokens, grid: tokens[:, 0], "the class token"),
    "mean": Pool(
        lambda tokens, grid: jnp.mean(tokens[:, grid.num_prefix :], axis=1),
        "the mean of the patch tokens",
    ),
    "tokens": Pool(lambda tokens, grid: tokens, "all tokens, those before the patches first"),
}


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The features of a layer.

    Attributes:
      model: The model.
      layer: Name of the layer; empty for the pooled features, which the head gets.
      pool: Name of the pool; empty for values that are one vector for each image already.
      shape: Shape of the features of one image.
      grid: Layout of the tokens; None if the layer has no tokens.
    """

    model: nn.Module
    layer: str
    pool: str
    shape: tuple[int, ...] = ()
    grid: Grid | None = None

    def __call__(
        self, variables: Mapping[str, Any], images: Float[Array, "b H W c"]
    ) -> dict[str, Array]:
        """Return the `features` of normalized images, at least float32."""
        return {"features": self.pooled(_read(self.model, variables, images, self))}

    def pooled(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Return the output of the layer after the pool, at least float32."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.grid is None:
            return x
        tokens = x.reshape(len(x), -1, x.shape[-1])[:, : self.grid.num_tokens]
        return POOLS[self.pool].apply(tokens, self.grid)

    @property
    def size(self) -> int:
        """Size of the features of one image in bytes, as float32."""
        return 4 * math.prod(self.shape)

    def __str__(self) -> str:
        """Return the layer, the pool and the shape, as a line says them."""
        what = POOLS[self.pool].text if self.pool else "one vector"
        where = self.layer or ("the last tokens" if self.pool else "the input of the head")
        return f"{where}: {what}, {'x'.join(map(str, self.shape))} values for each image"


def choose_features(
    model: nn.Module, image_shape: tuple[int, int, int], layer: str = "", pool: str = ""
) -> Pooled:
    """Return the features of a layer of a model.

    Args:
      model: The model.
      image_shape: (height, width, channels) of an image.
      layer: Path of a submodule, as for `models.features`, such as `blocks_5`; by default the
        pooled features of the model, or its last tokens if `pool` is given.
      pool: A name of `POOLS`; by default the pool of the model for its pooled features, and for
        tokens `cls` if that pool is the class token, else `mean`.

    Raises:
      ConfigError: There is no such layer or pool, or the layer has no such tokens.
    """
    if pool:
        pick(POOLS, pool, "--pool")
    asked = Pooled(model, layer, pool)
    shape = _shape(model, image_shape, asked)
    if len(shape) == 1:
        if pool:
            where = f"{layer} gives one vector for each image"
            raise ConfigError("--pool", f"expected none, got {pool}: {where}")
        return dataclasses.replace(asked, shape=shape)
    grid = _find_grid(model, image_shape, layer, shape)
    if grid is None:
        problem = f"expected vectors, tokens or a grid of tokens; {layer} gives {shape}"
        raise ConfigError("--layer", f"{problem} for each image")
    has_class_token = "cls_token" in getattr(model, "token_names", ())
    if pool == "cls" and not (has_class_token and grid.num_prefix):
        where = f" in {layer}" if has_class_token else ""
        raise ConfigError("--pool", f"the model has no class token{where}; use mean or tokens")
    reads_class_token = has_class_token and model.pool.module.reads_class_token
    pool = pool or ("cls" if reads_class_token and grid.num_prefix else "mean")
    chosen = dataclasses.replace(asked, pool=pool, grid=grid)
    pooled = jax.eval_shape(chosen.pooled, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return dataclasses.replace(chosen, shape=pooled.shape[1:])


def _read(
    model: nn.Module, variables: Mapping[str, Any], images: Float[Array, "b H W c"], asked: Pooled
) -> Array:
    """Return the output of a layer before the pool."""
    if asked.layer:
        return models.features(model, variables, images, [asked.layer])[asked.layer]
    output = models.forward(model, variables, images)
    return output.tokens if asked.pool else output.features


def _shape(model: nn.Module, image_shape: tuple[int, int, int], asked: Pooled) -> tuple[int, ...]:
    """Return the shape of the output of a layer for one image.

    Raises:
      ConfigError: There is no such layer, or its output is not one array for each image.
    """
    variables = nn.unbox(models.abstract_variables(model, image_shape))
    images = jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.float32)
    try:
        output = jax.eval_shape(
            lambda variables, images: _read(model, variables, images, asked), variables, images
        )
    except ConfigError as error:
        raise ConfigError("--layer", error.problem) from error
    if output.ndim < 2 or len(output) != BATCH:
        raise ConfigError("--layer", f"{asked.layer} does not give an array for each image")
    return output.shape[1:]


def _find_grid(
    model: nn.Module, image_shape: tuple[int, int, int], layer: str, shape: tuple[int, ...]
) -> Grid | None:
    """Return the layout of the tokens of a layer; None if its output is not tokens.

    Args:
      model: The model.
      image_shape: (height, width, channels) of an image.
      layer: Path of the layer.
      shape: Shape of its output for one image.
    """
    grids = model.grids(image_shape[:2])
    first = layer.split("/")[0]
    of_stage = [
        grid for grid, names in zip(grids, model.block_names, strict=True) if first in names
    ]
    if len(shape) == 3 and not of_stage:
        return Grid(*shape[:2])
    if len(shape) != 2:
        return None
    for grid in of_stage or grids:
        padded = grid.num_tokens + grid.num_tokens % 2  # as some kernels need it
        if shape[0] in (grid.num_tokens, padded):
            return grid
    return None
