"""The image operations of augmentation policies, by name.

    OPERATIONS["rotate"](bands, 30.0, options)

The strength of an operation is in its own unit: degrees, pixels, a factor. An image is a list of
Pillow images, called bands: a single grey or RGB image, or one grey image per channel.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Bands = list[Image.Image]


@dataclasses.dataclass(frozen=True)
class FillOptions:
    """The fill value of pixels outside the image, and the interpolation of geometric operations."""

    fill: Sequence[int]  # 0 to 255, one value per channel
    resampling: Image.Resampling = Image.Resampling.NEAREST

    def fills(self, bands: Bands) -> list[int | tuple[int, ...]]:
        """Return the fill value of each band, as Pillow expects it."""
        return [tuple(self.fill)] if bands[0].mode == "RGB" else list(self.fill)


Operation = Callable[[Bands, float, FillOptions], Bands]


def to_bands(image: np.ndarray) -> Bands:
    """Split an image, uint8 (h, w, c), into bands."""
    channels = image.shape[-1]
    if channels == 3:
        return [Image.fromarray(image)]
    return [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(channels)]


def from_bands(bands: Bands) -> np.ndarray:
    """Join bands to an image, uint8 (h, w, c)."""
    arrays = [np.asarray(band) for band in bands]
    if len(arrays) > 1:
        return np.stack(arrays, axis=-1)
    return arrays[0] if arrays[0].ndim == 3 else arrays[0][..., None]


def _per_band(function: Callable[[Image.Image, float], Image.Image]) -> Operation:
    """Return the operation that applies a function to each band."""
    return lambda bands, strength, options: [function(band, strength) for band in bands]


def _enhance(enhancer: Callable[[Image.Image], Any]) -> Operation:
    """Return the operation of a Pillow enhancer. Its strength is a factor; 1 is the identity."""
    return _per_band(lambda band, factor: enhancer(band).enhance(factor))


def _affine(matrix: Callable[[float, int, int], tuple[float, ...]]) -> Operation:
    """Return an affine operation.

    Args:
      matrix: Function of (strength, width, height) that returns the six coefficients of Pillow's
        AFFINE transform, which maps output coordinates to input coordinates.
    """

    def transform(bands: Bands, strength: float, options: FillOptions) -> Bands:
        width, height = bands[0].size
        coefficients = matrix(strength, width, height)
        affine = Image.Transform.AFFINE
        return [
            band.transform(band.size, affine, coefficients, options.resampling, fillcolor=fill)
            for band, fill in zip(bands, options.fills(bands), strict=True)
        ]

    return transform


def _rotate(bands: Bands, degrees: float, options: FillOptions) -> Bands:
    return [
        band.rotate(degrees, options.resampling, fillcolor=fill)
        for band, fill in zip(bands, options.fills(bands), strict=True)
    ]


def _solarize_add(band: Image.Image, added: float) -> Image.Image:
    """Add a value to the pixels below 128."""
    return band.point(
        [min(255, i + int(added)) if i < 128 else i for i in range(256)] * _count(band)
    )


def _solarize(band: Image.Image, threshold: float) -> Image.Image:
    """Invert pixels at or above the threshold."""
    return band.point([i if i < threshold else 255 - i for i in range(256)] * _count(band))


def _posterize(band: Image.Image, bits: float) -> Image.Image:
    """Keep only the highest bits of each pixel: 8 or more is the identity, 0 gives black."""
    mask = 256 - 2 ** (8 - min(8, max(0, int(bits))))
    return band.point([i & mask for i in range(256)] * _count(band))


def _desaturate(band: Image.Image, _: float) -> Image.Image:
    return band.convert("L").convert(band.mode)


def _count(band: Image.Image) -> int:
    return len(band.getbands())


OPERATIONS: dict[str, Operation] = {
    "identity": _per_band(lambda band, _: band),
    "autocontrast": _per_band(lambda band, _: ImageOps.autocontrast(band)),
    "equalize": _per_band(lambda band, _: ImageOps.equalize(band)),
    "invert": _per_band(lambda band, _: ImageOps.invert(band)),
    "desaturate": _per_band(_desaturate),
    "rotate": _rotate,  # degrees, counter-clockwise
    "posterize": _per_band(_posterize),  # bits to keep
    "solarize": _per_band(_solarize),  # threshold
    "solarize_add": _per_band(_solarize_add),  # value to add, 0 to 255
    "color": _enhance(ImageEnhance.Color),  # factors; 1 is the identity
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "blur": _per_band(lambda band, radius: band.filter(ImageFilter.GaussianBlur(radius))),
    "shear_x": _affine(lambda tangent, width, height: (1, tangent, 0, 0, 1, 0)),
    "shear_y": _affine(lambda tangent, width, height: (1, 0, 0, tangent, 1, 0)),
    "translate_x": _affine(lambda pixels, width, height: (1, 0, pixels, 0, 1, 0)),
    "translate_y": _affine(lambda pixels, width, height: (1, 0, 0, 0, 1, pixels)),
    "translate_x_fraction": _affine(
        lambda fraction, width, height: (1, 0, fraction * width, 0, 1, 0)
    ),
    "translate_y_fraction": _affine(
        lambda fraction, width, height: (1, 0, 0, 0, 1, fraction * height)
    ),
}


def cutout(bands: Bands, half_side: int, centre: tuple[int, int], options: FillOptions) -> Bands:
    """Fill a square of an image (DeVries & Taylor 2017). It may extend beyond the image.

    Args:
      bands: The image.
      half_side: Half the side of the square in pixels.
      centre: Row and column of the centre.
      options: The fill value.
    """
    row, column = centre
    results = []
    for band, fill in zip(bands, options.fills(bands), strict=True):
        copy = band.copy()
        copy.paste(
            fill,
            (
                max(0, column - half_side),
                max(0, row - half_side),
                column + half_side,
                row + half_side,
            ),
        )
        results.append(copy)
    return results
