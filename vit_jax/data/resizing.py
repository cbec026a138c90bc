"""Resizing of parts of images, in memory that input and output bound at any aspect ratio."""

import math

import numpy as np
from PIL import Image

from vit_jax.data.operations import join, split

# Pillow's resampling filters, by the values of `config.data.interpolation`.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Box = tuple[
    int | float, int | float, int | float, int | float
]  # left, top, right, bottom, in pixels
Span = tuple[int, int]  # from the first row or column to the one after the last

# How many pixels each filter reads on either side of one, at most.
_REACH = 3

# Pillow takes boxes in single precision, which is exact enough up to here.
_LONG_SIDE = 1 << 16

# How many pixels of a long side are left for each of the result, by averaging.
_GAP = 64.0

# What is computed beyond what is kept: this many times the result, or as much as the image has.
_MOST_EXTRA = 64


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, box: Box | None = None
) -> np.ndarray:
    """Resize a box of an image; Pillow's filters are antialiased, and read pixels around it.

    Args:
      image: uint8 (h, w, c).
      size: Height and width of the result.
      interpolation: One of `FILTERS`.
      box: The part; all of it unless given.
    """
    height, width = image.shape[:2]
    if size == (height, width) and box in (None, (0, 0, width, height)):
        return image
    if box is not None and max(height, width) > _LONG_SIDE:
        image, box = _cut(image, size, box)
    left, top, right, bottom = box or (0, 0, width, height)
    if _fits((bottom - top) * size[1], image, size):
        return _resize(image, size, interpolation, box)
    # Pillow resizes the width first, which would make a tall image larger than it has to be.
    high = _resize(
        image, (size[0], image.shape[1]), interpolation, (0, top, image.shape[1], bottom)
    )
    return _resize(high, size, interpolation, (left, 0, right, size[0]))


def resize_part(
    image: np.ndarray, whole: tuple[int, int], spans: tuple[Span, Span], interpolation: str
) -> np.ndarray:
    """Return some rows and columns of an image that is resized to a height and width.

    Only they are computed where the whole is much larger, as that of a thin image is.

    Args:
      image: uint8 (h, w, c).
      whole: The height and width.
      spans: Which rows and columns.
      interpolation: One of `FILTERS`.
    """
    (top, bottom), (left, right) = spans
    size = (bottom - top, right - left)
    if _fits(whole[0] * whole[1], image, size):
        return resize(image, whole, interpolation)[top:bottom, left:right]
    height, width = image.shape[:2]
    rows = (top * height / whole[0], bottom * height / whole[0])
    columns = (left * width / whole[1], right * width / whole[1])
    return resize(image, size, interpolation, (columns[0], rows[0], columns[1], rows[1]))


def covering(image: np.ndarray, size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return the height and width of the image when it just covers `size / fraction`."""
    sides = image.shape[:2]
    targets = [math.floor(side / fraction) for side in size]
    short = 0 if targets[0] * sides[1] >= targets[1] * sides[0] else 1
    height, width = (targets[short] * side // sides[short] for side in sides)
    return height, width


def _fits(pixels: int | float, image: np.ndarray, size: tuple[int, int]) -> bool:
    """Return whether so many pixels are few beside those of an image and of its result."""
    return pixels <= max(_MOST_EXTRA * size[0] * size[1], image.shape[0] * image.shape[1])


def _cut(image: np.ndarray, size: tuple[int, int], box: Box) -> tuple[np.ndarray, Box]:
    """Return the part of an image that a box reads, and the box within that part."""
    bounds: list[Span] = []
    for start, stop, side, result in zip(
        box[:2], box[2:], image.shape[1::-1], size[::-1], strict=True
    ):
        margin = 1 + math.ceil(_REACH * max(1, (stop - start) / result))
        bounds.append((max(0, math.floor(start) - margin), min(side, math.ceil(stop) + margin)))
    (left, right), (top, bottom) = bounds
    part = image[top:bottom, left:right]
    return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def _resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, box: Box | None
) -> np.ndarray:
    resampling = FILTERS[interpolation]
    # The weights of a filter take 32 bytes a row, so very long sides are averaged down first.
    gap = _GAP if max(image.shape[:2]) > _LONG_SIDE else None
    bands = [band.resize(size[::-1], resampling, box, gap) for band in split(image)]
    return join(bands)
