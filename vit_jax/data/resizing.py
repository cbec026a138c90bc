"""Resizing of images and of boxes in them, with bounded memory at any aspect ratio."""

import math

import numpy as np
from PIL import Image

from vit_jax.data.operations import from_bands, to_bands

# Pillow's resampling filters, by the values of `config.data.interpolation`.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Number = int | float
Box = tuple[Number, Number, Number, Number]  # left, top, right, bottom, in pixels
Span = tuple[int, int]  # first row or column, and the one after the last

# The largest filter radius in pixels of the output: that of Lanczos.
_MAX_FILTER_RADIUS = 3

# Pillow stores boxes in single precision, which is exact enough for sides up to this length.
_MAX_EXACT_SIDE = 1 << 16

# Pillow's `reducing_gap`: a long side is first averaged down to this many pixels per output pixel.
_REDUCING_GAP = 64.0

# Intermediate images may have this many times the pixels of the output, or as many as the input.
_MAX_OVERHEAD = 64


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, box: Box | None = None
) -> np.ndarray:
    """Resize a box of an image with antialiasing. The filter also reads pixels around the box.

    Args:
      image: uint8 (h, w, c).
      size: Height and width of the result in pixels.
      interpolation: A key of `FILTERS`.
      box: The box in pixels, which may be fractional; None for the whole image.
    """
    height, width = image.shape[:2]
    if size == (height, width) and box in (None, (0, 0, width, height)):
        return image
    if box is not None and max(height, width) > _MAX_EXACT_SIDE:
        image, box = _crop_around_box(image, size, box)
    left, top, right, bottom = box or (0, 0, width, height)
    if _is_affordable((bottom - top) * size[1], image, size):
        return _resize(image, size, interpolation, box)
    # Pillow resizes the width first, so a tall image would need a large intermediate image.
    high = _resize(
        image, (size[0], image.shape[1]), interpolation, (0, top, image.shape[1], bottom)
    )
    return _resize(high, size, interpolation, (left, 0, right, size[0]))


def resize_and_crop(
    image: np.ndarray, whole: tuple[int, int], spans: tuple[Span, Span], interpolation: str
) -> np.ndarray:
    """Resize an image and crop the result.

    If the resized image is much larger than the crop, only the crop is computed.

    Args:
      image: uint8 (h, w, c).
      whole: Height and width of the resized image in pixels.
      spans: The rows and the columns of the crop in the resized image.
      interpolation: A key of `FILTERS`.
    """
    (top, bottom), (left, right) = spans
    size = (bottom - top, right - left)
    if _is_affordable(whole[0] * whole[1], image, size):
        return resize(image, whole, interpolation)[top:bottom, left:right]
    height, width = image.shape[:2]
    rows = (top * height / whole[0], bottom * height / whole[0])
    columns = (left * width / whole[1], right * width / whole[1])
    return resize(image, size, interpolation, (columns[0], rows[0], columns[1], rows[1]))


def covering_size(image: np.ndarray, size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return the smallest size, at the aspect ratio of an image, that covers `size / fraction`.

    Args:
      image: uint8 (h, w, c).
      size: Height and width of the crop in pixels.
      fraction: Fraction of the resized image's shorter side that the crop takes.

    Returns:
      Height and width in pixels.
    """
    sides = image.shape[:2]
    targets = [math.floor(side / fraction) for side in size]
    short = 0 if targets[0] * sides[1] >= targets[1] * sides[0] else 1
    height, width = (targets[short] * side // sides[short] for side in sides)
    return height, width


def _is_affordable(pixels: int | float, image: np.ndarray, size: tuple[int, int]) -> bool:
    """Return whether an intermediate image of this many pixels is within `_MAX_OVERHEAD`."""
    return pixels <= max(_MAX_OVERHEAD * size[0] * size[1], image.shape[0] * image.shape[1])


def _crop_around_box(image: np.ndarray, size: tuple[int, int], box: Box) -> tuple[np.ndarray, Box]:
    """Crop an image to what resizing a box reads; return the crop and the box within it."""
    bounds: list[Span] = []
    for start, stop, side, result in zip(
        box[:2], box[2:], image.shape[1::-1], size[::-1], strict=True
    ):
        margin = 1 + math.ceil(_MAX_FILTER_RADIUS * max(1, (stop - start) / result))
        bounds.append((max(0, math.floor(start) - margin), min(side, math.ceil(stop) + margin)))
    (left, right), (top, bottom) = bounds
    part = image[top:bottom, left:right]
    return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def _resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, box: Box | None
) -> np.ndarray:
    resampling = FILTERS[interpolation]
    # The filter weights take 32 bytes per input row, so very long sides are averaged down first.
    gap = _REDUCING_GAP if max(image.shape[:2]) > _MAX_EXACT_SIDE else None
    bands = [band.resize(size[::-1], resampling, box, gap) for band in to_bands(image)]
    return from_bands(bands)
