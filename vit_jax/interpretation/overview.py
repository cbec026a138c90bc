"""The maps of an image and those of a model, by name, and why a model lacks some of them."""

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.interpretation.distances import attention_distance
from vit_jax.interpretation.filters import filter_components, first_filters
from vit_jax.interpretation.heads import head_maps
from vit_jax.interpretation.positions import position_bias, position_embedding, position_similarity
from vit_jax.interpretation.propagation import readout_of
from vit_jax.interpretation.relevance import relevance
from vit_jax.interpretation.rollout import rollout
from vit_jax.interpretation.weights import attention_layers, attention_maps

OF_IMAGES = ("heads", "mean", "rollout", "relevance", "components")
OF_MODEL = ("filters", "positions", "distances")
OF_ATTENTION = ("heads", "mean", "distances")  # those that are made of attention weights

Arrays = Mapping[str, np.ndarray]
# Why the model lacks maps, by their names.
Lacking = dict[tuple[str, ...], ConfigError]
# What makes maps, by their names.
_Makers = dict[tuple[str, ...], Callable[[], Mapping[str, Any]]]

_NONE: Arrays = types.MappingProxyType({})


class ImageMaps(NamedTuple):
    """Maps of an image. One that was not asked for, or that the model lacks, is None or empty.

    Attributes:
      heads: Attention of each head, (heads, h, w), by layer.
      readouts: The tokens whose attention it is, by layer.
      distances: Attention distance of each head in pixels, (heads,), by block.
      rollout: Attention rollout.
      relevance: Relevance for one class.
      components: Principal components as colours, which depend on all images that are shown.
    """

    heads: Arrays = _NONE
    readouts: Mapping[str, str] = types.MappingProxyType({})
    distances: Arrays = _NONE
    rollout: Float[np.ndarray, "h w"] | None = None
    relevance: Float[np.ndarray, "h w"] | None = None
    components: Float[np.ndarray, "h w 3"] | None = None


def image_maps(
    model: models.Transformer,
    variables: Mapping[str, Any],
    image: Float[Array, "1 H W c"],
    names: Collection[str],
    layers: Sequence[str],
    label: int,
) -> tuple[ImageMaps, Lacking]:
    """Return maps of one image, without components.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      image: The normalized image.
      names: Names of maps, of `OF_IMAGES` and `OF_MODEL`.
      layers: The layers whose heads are shown.
      label: Index of the class of the relevance.

    Returns:
      The maps, and why the model lacks others.
    """
    run = (model, variables, image)
    makers: _Makers = {
        OF_ATTENTION: lambda: _of_attention(*run, names, layers),
        ("rollout",): lambda: {"rollout": np.asarray(rollout(*run).values[0])},
        ("relevance",): lambda: {"relevance": np.asarray(relevance(*run, [label]).values[0])},
    }
    made, lacking = _make(makers, names)
    return ImageMaps(**made), lacking


def model_maps(
    model: models.Transformer,
    variables: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    names: Collection[str],
) -> tuple[dict[str, Arrays], Lacking]:
    """Return maps of a model, without distances, which are those of images.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      image_shape: Height, width and channels of an image.
      names: Names of maps, of `OF_MODEL`.

    Returns:
      The arrays of each map: `filters`, their `components` and `shares`; `positions` and their
      `similarity`, or else position biases by block. And why the model lacks others.
    """
    run = (model, variables, image_shape)
    makers: _Makers = {
        ("filters",): lambda: {"filters": _filters(*run)},
        ("positions",): lambda: {"positions": _positions(*run)},
    }
    return _make(makers, names)


def _make(makers: _Makers, names: Collection[str]) -> tuple[dict[str, Any], Lacking]:
    """Return what the makers of these names make, and why they do not."""
    made: dict[str, Any] = {}
    lacking: Lacking = {}
    for known, make in makers.items():
        wanted = tuple(name for name in known if name in names)
        if not wanted:
            continue
        try:
            made |= make()
        except ConfigError as error:
            lacking[wanted] = error
    return made, lacking


def _of_attention(
    model: models.Transformer,
    variables: Mapping[str, Any],
    image: Array,
    names: Collection[str],
    layers: Sequence[str],
) -> dict[str, Any]:
    """Return the maps that are made of attention weights; those of all layers at once are large."""
    shown = layers if {"heads", "mean"}.intersection(names) else ()
    blocks = attention_layers(model) if "distances" in names else ()
    weights = attention_maps(model, variables, image, tuple(dict.fromkeys((*blocks, *shown))))
    size = image.shape[1:3]
    return {
        "heads": {layer: head_maps(model, layer, weights[layer])[0] for layer in shown},
        "readouts": {layer: readout_of(model, layer) for layer in shown},
        "distances": {
            block: attention_distance(
                np.asarray(weights[block].weights), weights[block].grid, (size[0], size[1])
            )
            for block in blocks
        },
    }


def _filters(
    model: models.Transformer, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> Arrays:
    filters = first_filters(model, variables, image_shape)
    components, shares = filter_components(filters)
    return {"filters": filters, "components": components, "shares": shares}


def _positions(
    model: models.Transformer, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> Arrays:
    if model.posemb.module.site == "bias":
        return position_bias(model, variables, image_shape)
    positions = position_embedding(model, variables, image_shape[:2])
    return {"positions": positions, "similarity": position_similarity(positions)}
