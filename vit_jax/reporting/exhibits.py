"""What a report shows of the images of a set: pictures with maps, and features in the plane."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vit_jax.config import Data
from vit_jax.data import transforms
from vit_jax.data.reader import Reader
from vit_jax.data.sources import Source
from vit_jax.evaluation.predictions import Predictions
from vit_jax.interpretation.components import principal_components
from vit_jax.reporting.content import Exhibit, Projection, Thumbnail
from vit_jax.reporting.maps import ImageMaps
from vit_jax.viz.maps import map_on_image, plain_image

# The width of a picture in pixels; smaller images are not enlarged.
WIDTH = 112

# Points of the projection; more could not be told apart, and each takes 500 bytes.
MAX_POINTS = 1500

# Images of `--against` that are shown.
MAX_DIFFERING = 20

# From images, as the model gets them, and an output of the model for each, to their maps.
Mapper = Callable[[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]], ImageMaps]


def make_exhibit(
    predictions: Predictions, source: Source, data: Data, indices: Sequence[int], mapper: Mapper
) -> Exhibit:
    """Return the pictures of some images of a set, and the features of all of them.

    Args:
      predictions: The predictions for the set.
      source: The images.
      data: How the model gets them.
      indices: Indices of the images to show, in the source.
      mapper: Maps the images.
    """
    projection = project(predictions)
    if not indices:
        return Exhibit({}, "", projection)
    reader = Reader(source, transforms.for_evaluation(data), data.image_size)
    pixels = np.stack([reader.evaluate(index)["image"] for index in indices])
    rows = np.searchsorted(predictions.indices, indices)
    maps = mapper(pixels, predictions.predicted_outputs[rows])
    values = [None] * len(indices) if maps.values is None else maps.values
    thumbnails = map(_thumbnail, pixels, values)
    return Exhibit(dict(zip(indices, thumbnails, strict=True)), maps.about, projection)


def listed(analysis: Mapping[str, Any], against: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of the images that a report shows, each once.

    Args:
      analysis: The analysis of a set.
      against: The comparisons with another run.
    """
    entries = [*analysis["mistakes"], *analysis["uncertain"]]
    for comparison in against:
        if comparison["set"] == analysis["set"]:
            entries += comparison["differing"][:MAX_DIFFERING]
    return list(dict.fromkeys(entry["index"] for entry in entries))


def project(predictions: Predictions, limit: int = MAX_POINTS) -> Projection | None:
    """Return the features in the plane of their first two principal components.

    Args:
      predictions: The predictions; all of them determine the components.
      limit: The number of images that are shown at most, evenly spread over the set.

    Returns:
      The projection; None if the features do not span a plane.
    """
    finite = np.isfinite(predictions.features).all(axis=1)
    features = predictions.features[finite]
    if len(features) < 3 or features.shape[1] < 2:
        return None
    components = principal_components(features, 2)
    rows = np.flatnonzero(finite)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int))
    shown = rows[chosen]
    return Projection(
        points=components.project(features[chosen]),
        explained_variance_ratio=components.shares,
        labels=predictions.labels[shown],
        predicted=predictions.logits[shown].argmax(axis=1),
        ids=tuple(predictions.ids[i] for i in shown.tolist()),
        total=len(rows),
    )


def _thumbnail(
    pixels: UInt8[np.ndarray, "h w c"], values: Float[np.ndarray, "r k"] | None
) -> Thumbnail:
    width = min(WIDTH, pixels.shape[1])
    image = to_uri(plain_image(pixels, width))
    shown = None if values is None else to_uri(map_on_image(pixels, values, width))
    return Thumbnail(image, shown, is_small=pixels.shape[1] < WIDTH)


def to_uri(image: Image.Image) -> str:
    """Return a picture as the URI of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
