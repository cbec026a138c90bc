"""Draw the sheets of images: a pass for what all images share, and one for the maps of each."""

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.attending.files import write
from vit_jax.attending.images import InputImage
from vit_jax.attending.request import Request
from vit_jax.checkpoints.pretrained import Pretrained
from vit_jax.console.progress import Progress, say
from vit_jax.console.waiting import compiled_first
from vit_jax.data import transforms
from vit_jax.errors import DataError
from vit_jax.interpretation.components import component_colours
from vit_jax.interpretation.overview import OF_MODEL, Arrays, ImageMaps, image_maps
from vit_jax.viz.map_sheets import map_sheet


class Classified(NamedTuple):
    """An image, and what the model makes of it."""

    image: InputImage
    top: int  # index of the most probable class; -1 for a model without classes
    features: np.ndarray  # of the patches, (h, w, d)


def draw_images(
    trained: Pretrained, images: Sequence[InputImage], request: Request, output: pathlib.Path
) -> tuple[Request, Arrays]:
    """Write the sheets of images.

    Args:
      trained: The model, with the size of the images in its `data`.
      images: The images.
      request: What is drawn.
      output: The folder of the files.

    Returns:
      The request, without the maps that the model lacks; and the mean attention distance of each
      head over the images, by layer.

    Raises:
      ConfigError: The model does not have a map that the user named.
      DataError: The model has no finite output for any image.
    """
    model, labels = cast(models.Transformer, trained.model), trained.labels
    distances = []
    progress = Progress(2 * len(images), 0, 10.0, "attend", aside=True)
    try:
        seen = list(_classify(trained, images, progress))
        if not seen:
            raise DataError("there is no map of any image")
        colours: Sequence[np.ndarray | None] = [None] * len(seen)
        if "components" in request.names:
            features = np.stack([each.features for each in seen])
            colours = list(component_colours(features, foreground=request.foreground)[0])
        for i, (image, top, _) in enumerate(seen):
            label = top if request.label is None else request.label
            batch = _normalize(trained.data, image.pixels)
            maps, lacking = image_maps(
                model, trained.variables, batch, request.names, request.layers, label
            )
            request = request.without(lacking)
            maps = maps._replace(components=colours[i])
            distances.append(maps.distances)
            if set(request.names) - set(OF_MODEL):
                sheet = map_sheet(
                    os.path.basename(image.path),
                    image.pixels,
                    maps,
                    request.names,
                    caption=labels[top] if top >= 0 else "",
                    label=labels[label] if label >= 0 else "",
                    width=request.width,
                )
                arrays = _arrays(image, maps) if request.arrays else {}
                write(output / image.name, sheet, arrays, image.path)
            if progress.due():
                progress.show(len(images) + i + 1)
    finally:
        progress.close()
    means = {layer: np.mean([each[layer] for each in distances], axis=0) for layer in distances[0]}
    return request, means


def _classify(
    trained: Pretrained, images: Sequence[InputImage], progress: Progress
) -> Iterator[Classified]:
    """Yield each image with what the model makes of it; print a line if that is no number."""
    model = cast(models.Transformer, trained.model)
    jitted = jax.jit(functools.partial(models.forward, model))
    forward = compiled_first(jitted, "model", aside=True)
    for i, image in enumerate(images, 1):
        output = forward(trained.variables, _normalize(trained.data, image.pixels))
        height, width, num_prefix = output.grid
        patches = np.asarray(output.tokens[0, num_prefix:], np.float32)
        if np.isfinite(patches).all() and np.isfinite(output.logits).all():
            top = int(output.logits[0].argmax()) if output.logits.size else -1
            yield Classified(image, top, patches.reshape(height, width, -1))
        else:
            say(f"skipped   {image.path}: the output of the model is not finite")
        if progress.due():
            progress.show(i)


def _normalize(data: config_lib.Data, pixels: np.ndarray) -> jax.Array:
    return transforms.normalize(jnp.asarray(pixels[None]), data.mean, data.std)


def _arrays(image: InputImage, maps: ImageMaps) -> dict[str, np.ndarray]:
    """Return the numbers that a sheet shows."""
    named = {
        "rollout": maps.rollout,
        "relevance": maps.relevance,
        "components": maps.components,
    }
    shown = {name: values for name, values in named.items() if values is not None}
    return {"image": image.pixels, **shown, **maps.heads}
