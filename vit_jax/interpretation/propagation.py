"""How much of each patch is in the result: products of matrices over the layers of a model.

Rollout and relevance each have a matrix (n, n) per layer. Their product, from the first layer to
the last, tells for each token of the last layer how much it has of each token of the first.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.interpretation import hooks
from vit_jax.models.layers.grid import Grid, ceil_div


class Saliency(NamedTuple):
    """How much of each patch is in the result of a model.

    Attributes:
      values: One value per patch, on the grid of the first layer.
      readout: The tokens that the result is read from; a name of `READOUTS`.
    """

    values: Float[Array, "b height width"]
    readout: str


# Maps the shares (b, n, m) in n tokens, the first p of which are prefix tokens, to those in the
# result, (b, m).
READOUTS: dict[str, Callable[[Array, int], Array]] = {
    "probe of the pool": lambda shares, p: shares[:, 0],
    "class token": lambda shares, p: shares[:, 0],
    "class and distillation token": lambda shares, p: jnp.mean(shares[:, :2], axis=1),
    "mean of the patches": lambda shares, p: jnp.mean(shares[:, p:], axis=1),
}


def readout_of(model: models.Transformer, last: str) -> str:
    """Return the readout of a model: the tokens that its head reads.

    Args:
      model: The model.
      last: Name of the last layer; before the pool, attention pooling reads nothing yet.
    """
    if last == hooks.POOL:
        return "probe of the pool"
    if not model.pool.module.reads_class_token:
        return "mean of the patches"
    has_two_heads = isinstance(model, models.ViT) and model.distilled and model.distilled_head
    return "class and distillation token" if has_two_heads else "class token"


def propagate(
    matrices: Mapping[str, Float[Array, "b _ _"]], grids: Mapping[str, Grid]
) -> Float[Array, "b n m"]:
    """Return the product of the matrices of all layers, the last one first.

    Between two stages, a merged token has the mean shares of the tokens that it is made of; its
    projection is not looked at. Attention pooling reads the patches, without prefix tokens.

    Args:
      matrices: One matrix per layer, in the order of the layers.
      grids: Layout of the tokens of each layer.

    Returns:
      The share of each token of the first layer (m) in each token of the last (n).
    """
    first = next(iter(matrices))
    shares = jnp.eye(grids[first].num_tokens)[None]
    for before, layer in itertools.pairwise([first, *matrices]):
        if layer == hooks.POOL:
            shares = shares[:, grids[before].num_prefix :]
        elif grids[layer] != grids[before]:
            shares = _matmul(merging(grids[before], grids[layer])[None], shares)
        shares = _matmul(matrices[layer], shares)
    return shares


def read(
    shares: Float[Array, "b n m"], readout: str, first: Grid, last: Grid
) -> Float[Array, "b height width"]:
    """Return the shares of the patches of the first layer in the result.

    Args:
      shares: The result of `propagate`.
      readout: A name of `READOUTS`.
      first: Layout of the tokens of the first layer.
      last: Layout of the tokens of the last layer.
    """
    result = READOUTS[readout](shares, last.num_prefix)
    return result[:, first.num_prefix :].reshape(-1, first.height, first.width)


def merging(fine: Grid, coarse: Grid) -> Float[np.ndarray, "n m"]:
    """Return the matrix that averages the m tokens of a grid that each of n merged tokens covers.

    Args:
      fine: Layout before merging, without prefix tokens.
      coarse: Layout after merging; at the bottom and right, its tokens may cover less.
    """
    factors = [ceil_div(*sizes) for sizes in zip(fine[:2], coarse[:2], strict=True)]
    parents = fine.coords // factors
    members = (parents == coarse.coords[:, None]).all(axis=-1).astype(np.float32)
    return members / members.sum(axis=1, keepdims=True)


def _matmul(a: Array | np.ndarray, b: Array) -> Array:
    """Return the matrix product in full precision; TPUs would round to bfloat16."""
    return jnp.matmul(a, b, precision="highest")
