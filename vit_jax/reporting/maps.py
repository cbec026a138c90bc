"""The maps of a report: which patches speak for the predicted class."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from vit_jax import models
from vit_jax.config import Data
from vit_jax.data import transforms
from vit_jax.errors import ConfigError
from vit_jax.interpretation.relevance import relevance

# A model with its variables, which are read only where they are needed.
Trained = Callable[[], tuple[nn.Module, Mapping[str, Any]]]


class ImageMaps(NamedTuple):
    """The maps of images."""

    about: str  # what they are, or why there are none
    values: Float[np.ndarray, "n rows columns"] | None = None


def map_images(
    trained: Trained,
    data: Data,
    pixels: UInt8[np.ndarray, "n h w c"],
    classes: Int[np.ndarray, " n"],
) -> ImageMaps:
    """Return the relevance of the patches of images for the class that is predicted.

    Args:
      trained: Returns the model, and its `params` and other collections.
      data: How the model gets its images.
      pixels: At least one image, as the model gets it.
      classes: The output of the model for the predicted class of each image.
    """
    if jax.process_count() > 1:
        return ImageMaps("There are no maps: a run of several processes does not compute them.")
    model, variables = trained()
    if not isinstance(model, models.Transformer):
        return ImageMaps("There are no maps: the model is no Transformer of this package.")
    found = []
    try:
        # One by one: the weights of all layers are in memory at once.
        for image, chosen in zip(pixels, classes, strict=True):
            batch = transforms.normalize(jnp.asarray(image[None]), data.mean, data.std)
            saliency = relevance(model, variables, batch, chosen[None])
            found.append(np.asarray(saliency.values[0], np.float32))
    except ConfigError as error:
        return ImageMaps(f"There are no maps: {error.problem}.")
    about = (
        "Beside each image: the relevance of its patches for the class that the model predicts "
        f"(Chefer et al. 2021), read from the {saliency.readout}; dark to bright, up to the "
        "maximum of each map."
    )
    return ImageMaps(about, np.stack(found))
