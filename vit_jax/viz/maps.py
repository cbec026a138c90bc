"""Maps over the patches of an image: attention, relevance, principal components."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vit_jax.viz.colour_maps import to_colours

_OPACITY = (0.4, 0.9)  # of a map over its image, where it is 0 and where it is largest


def map_on_image(
    pixels: UInt8[np.ndarray, "H W c"], values: Float[np.ndarray, "h w"], width: int = 192
) -> Image.Image:
    """Return a map over the grey image, each patch in one colour (inferno), from 0 to its maximum.

    Args:
      pixels: The image that the model gets, with 1 to 4 channels.
      values: One number for each patch; negative ones count as 0.
      width: Width of the picture in pixels.
    """
    image = plain_image(pixels, width)
    scaled = (values / max(float(values.max()), 1e-12)).clip(0, 1)
    opacity = np.round(255 * np.interp(scaled, (0, 1), _OPACITY)).astype(np.uint8)
    colours, mask = (
        Image.fromarray(array).resize(image.size, Image.Resampling.NEAREST)
        for array in (to_colours(scaled, "inferno"), opacity)
    )
    return Image.composite(colours, image.convert("L").convert("RGB"), mask)


def patch_colours(colours: Float[np.ndarray, "h w 3"], size: tuple[int, int]) -> Image.Image:
    """Return a picture in which each patch has one colour.

    Args:
      colours: Red, green and blue, 0 to 1.
      size: Width and height of the picture in pixels.
    """
    levels = (255 * colours.clip(0, 1)).round().astype(np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.NEAREST)


def plain_image(pixels: UInt8[np.ndarray, "H W c"], width: int = 192) -> Image.Image:
    """Return an image in RGB at another width; a smaller one keeps its pixels as squares.

    Args:
      pixels: The image, with 1 to 4 channels: grey, grey and alpha, RGB, or RGBA.
      width: Width of the picture in pixels.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    height = round(width * image.height / image.width)
    enlarges = width >= image.width
    filter = Image.Resampling.NEAREST if enlarges else Image.Resampling.BICUBIC
    return image.resize((width, height), filter)
