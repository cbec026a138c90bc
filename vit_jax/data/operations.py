"""Operations that augmentation policies draw from, by name; their strengths have plain units.

    OPERATIONS["rotate"](bands, 30.0, options)

An image is a list of Pillow bands: one of grey or colour, or one for each channel.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Bands = list[Image.Image]


@dataclasses.dataclass(frozen=True)
class FillOptions:
    """The value of pixels that come from outside an image, and how the others are interpolated."""

    fill: Sequence[int]  # 0 to 255, one for each channel
    resampling: Image.Resampling = Image.Resampling.NEAREST

    def fills(self, bands: Bands) -> list[int | tuple[int, ...]]:
        """Return the fill of each band."""
        return [tuple(self.fill)] if bands[0].mode == "RGB" else list(self.fill)


Operation = Callable[[Bands, float, FillOptions], Bands]


def split(image: np.ndarray) -> Bands:
    """Return the bands of an image, uint8 (h, w, c)."""
    channels = image.shape[-1]
    if channels == 3:
        return [Image.fromarray(image)]
    return [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(channels)]


def join(bands: Bands) -> np.ndarray:
    """Return the image of bands, uint8 (h, w, c)."""
    arrays = [np.asarray(band) for band in bands]
    if len(arrays) > 1:
        return np.stack(arrays, axis=-1)
    return arrays[0] if arrays[0].ndim == 3 else arrays[0][..., None]


def _each(function: Callable[[Image.Image, float], Image.Image]) -> Operation:
    """Return the operation that is applied to each band alone."""
    return lambda bands, strength, options: [function(band, strength) for band in bands]


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Return the operation that blends with a degenerate image; a factor of 1 changes nothing."""
    return _each(lambda band, factor: enhancer(band).enhance(factor))


def _affine(matrix: Callable[[float, int, int], tuple[float, ...]]) -> Operation:
    """Return the operation that maps each output pixel to where it comes from.

    Args:
      matrix: From strength, width and height to the six coefficients of Pillow's AFFINE.
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
    """Brighten pixels below 128."""
    return band.point(
        [min(255, i + int(added)) if i < 128 else i for i in range(256)] * _count(band)
    )


def _solarize(band: Image.Image, threshold: float) -> Image.Image:
    """Invert pixels at or above the threshold."""
    return band.point([i if i < threshold else 255 - i for i in range(256)] * _count(band))


def _posterize(band: Image.Image, bits: float) -> Image.Image:
    """Keep the highest bits; 8 or more keep all, and 0 leaves black."""
    mask = 256 - 2 ** (8 - min(8, max(0, int(bits))))
    return band.point([i & mask for i in range(256)] * _count(band))


def _desaturate(band: Image.Image, _: float) -> Image.Image:
    return band.convert("L").convert(band.mode)


def _count(band: Image.Image) -> int:
    return len(band.getbands())


OPERATIONS: dict[str, Operation] = {
    "identity": _each(lambda band, _: band),
    "autocontrast": _each(lambda band, _: ImageOps.autocontrast(band)),
    "equalize": _each(lambda band, _: ImageOps.equalize(band)),
    "invert": _each(lambda band, _: ImageOps.invert(band)),
    "desaturate": _each(_desaturate),
    "rotate": _rotate,  # degrees, counter-clockwise
    "posterize": _each(_posterize),  # bits to keep
    "solarize": _each(_solarize),  # threshold
    "solarize_add": _each(_solarize_add),  # the amount, 0 to 255
    "color": _enhance(ImageEnhance.Color),  # factors, of which 1 changes nothing
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "blur": _each(lambda band, radius: band.filter(ImageFilter.GaussianBlur(radius))),
    "shear_x": _affine(lambda tangent, width, height: (1, tangent, 0, 0, 1, 0)),
    "shear_y": _affine(lambda tangent, width, height: (1, 0, 0, tangent, 1, 0)),
    "translate_x": _affine(lambda pixels, width, height: (1, 0, pixels, 0, 1, 0)),
    "translate_y": _affine(lambda pixels, width, height: (1, 0, 0, 0, 1, pixels)),
    "translate_x_share": _affine(lambda share, width, height: (1, 0, share * width, 0, 1, 0)),
    "translate_y_share": _affine(lambda share, width, height: (1, 0, 0, 0, 1, share * height)),
}


def cutout(bands: Bands, half: int, centre: tuple[int, int], options: FillOptions) -> Bands:
    """Return the bands with a square filled, as far as it is inside the image.

    Args:
      bands: The image.
      half: How far the square reaches from its centre, in pixels.
      centre: Row and column of the centre.
      options: What to fill it with.
    """
    row, column = centre
    results = []
    for band, fill in zip(bands, options.fills(bands), strict=True):
        copy = band.copy()
        copy.paste(fill, (max(0, column - half), max(0, row - half), column + half, row + half))
        results.append(copy)
    return results
