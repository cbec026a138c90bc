"""Decoding of image files to 8-bit pixels.

Only the formats in `FORMATS` are opened. The header is checked against the pixel limit before any
pixel is decoded. Files that Pillow would decode incorrectly are rejected with the reason. Colour
profiles are not applied.
"""

import io
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, TiffImagePlugin

from vit_jax.data.formats import jpeg, limits, png, tiff
from vit_jax.data.formats.errors import UnreadableError

__all__ = ["EXTENSIONS", "FORMATS", "MODES", "UnreadableError", "decode", "to_pixels"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo")
_OTHER_EXTENSIONS = (".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
EXTENSIONS = _JPEG_EXTENSIONS + _OTHER_EXTENSIONS

# Pillow's mode for each number of channels: grey, grey and alpha, RGB, RGBA.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# The caller sets the pixel limit, so Pillow's own warning from 89 million pixels is not needed. Nor
# are its warnings about corrupt metadata.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Larger images are converted block by block, so that no second copy of the whole image is in
# memory.
_LARGE_IMAGE_PIXELS = 1 << 24
_BLOCK_PIXELS = 1 << 20

# EXIF orientation: from the stored rows and columns to the upright image.
_ORIENTATION_TAG = 0x0112
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def decode(
    content: bytes, channels: int, background: tuple[int, ...], max_pixels: int
) -> UInt8[np.ndarray, "h w c"]:
    """Decode an image file, with its EXIF orientation applied.

    16-bit values are scaled to 8 bits, not clipped. Only the first frame of an animation is
    decoded. If the result has no alpha channel, transparent pixels show the background.

    Args:
      content: The bytes of the file.
      channels: Number of channels of the result, 1 to 4 (see `MODES`).
      background: Red, green and blue behind transparent pixels, 0 to 255.
      max_pixels: Maximum height x width.

    Raises:
      UnreadableError: The file is not an image, is corrupt or unsupported, or is too large.
    """
    try:
        pixels, orientation = _decode(content, channels, background, max_pixels)
        return _upright(pixels, orientation)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        most = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise UnreadableError(f"more than {most:,} pixels") from error
    except Exception as error:  # decoders raise many types on a corrupt file
        raise UnreadableError(_describe_failure(content, error)) from error


def to_pixels(
    image: Image.Image, channels: int, background: tuple[int, ...]
) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of a Pillow image, with its EXIF orientation applied.

    Args:
      image: The image.
      channels: Number of channels of the result, 1 to 4 (see `MODES`).
      background: Red, green and blue behind transparent pixels, 0 to 255.

    Raises:
      UnreadableError: The pixels have neither 8 nor 16 bits, or Pillow decodes them incorrectly.
    """
    tiff_layout = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tiff_layout = tiff.check(dict(image.tag_v2), channels)
    image.load()
    return _upright(_to_pixels(image, channels, background, tiff_layout), _orientation(image))


def _decode(
    content: bytes, channels: int, background: tuple[int, ...], max_pixels: int
) -> tuple[np.ndarray, int]:
    """Return the stored pixels of a file (not rotated) and its EXIF orientation."""
    limits.check_structure(content)
    header = jpeg.read_header(content) if content.startswith(jpeg.START) else None
    tiff_layout = (
        tiff.check(tiff.read_tags(content), channels) if content[:4] in tiff.STARTS else None
    )

    def load(content: bytes) -> Image.Image:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            adds_alpha = image.format == "PNG" and png.has_16_bit_transparent_colour(content, image)
            limits.check_cost(
                image, channels, max_pixels, header, tiff_layout, adds_alpha=adds_alpha
            )
            image.load()
            return image

    try:
        image = _load_jpeg(content, header, load) if header else load(content)
    except Image.UnidentifiedImageError as error:
        if tiff_layout is None:
            raise
        raise UnreadableError(f"{tiff_layout}, which Pillow cannot read") from error
    except OSError as error:
        if tiff_layout is None:
            raise
        problem = f"corrupt, or in an unsupported compression ({error})"
        raise UnreadableError(f"{tiff_layout}, {problem}") from error
    if image.format == "PNG":
        image = png.adapt_transparency(content, image)
    return _to_pixels(image, channels, background, tiff_layout), _orientation(image)


def _load_jpeg(
    content: bytes, header: jpeg.Header, load: Callable[[bytes], Image.Image]
) -> Image.Image:
    """Decode a JPEG whose picture data is complete; its end marker may be missing."""
    if header.has_end:
        image = load(content)
        if not jpeg.may_be_truncated(image):
            return image
    return jpeg.load_complete(content, header, load)


def _to_pixels(
    image: Image.Image,
    channels: int,
    background: tuple[int, ...],
    tiff_layout: tiff.TiffLayout | None,
) -> np.ndarray:
    """Return the stored pixels (not rotated) of a loaded image, uint8 (h, w, c)."""
    width, height = image.size
    if width * height <= _LARGE_IMAGE_PIXELS:
        return _convert(image, channels, background, tiff_layout)
    columns = min(width, _BLOCK_PIXELS)
    rows = min(height, _BLOCK_PIXELS // columns)
    pixels = np.empty((height, width, channels), np.uint8)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            bottom, right = min(top + rows, height), min(left + columns, width)
            block = image.crop((left, top, right, bottom))
            pixels[top:bottom, left:right] = _convert(block, channels, background, tiff_layout)
    return pixels


def _convert(
    image: Image.Image,
    channels: int,
    background: tuple[int, ...],
    tiff_layout: tiff.TiffLayout | None,
) -> np.ndarray:
    mode = MODES[channels]
    if image.mode == "F":
        raise UnreadableError("floating-point pixels, expected 8 or 16 bits")
    if image.mode == "I":
        raise UnreadableError("32-bit integer pixels, expected 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image, tiff_layout)
    if image.mode == "La":  # grey with premultiplied alpha
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not mode.endswith("A"):
            canvas = Image.new("RGBA", image.size, (*background, 255))
            canvas.alpha_composite(image)
            image = canvas
    image = image if image.mode == mode else image.convert(mode)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _to_8_bits(image: Image.Image, tiff_layout: tiff.TiffLayout | None) -> Image.Image:
    """Scale an image of up to 16 bits to 8 bits, and turn its transparent value into alpha."""
    largest = (1 << tiff_layout.bits) - 1 if tiff_layout else 65535
    values = np.asarray(image).astype(np.uint32)
    pixels = ((values * 255 + largest // 2) // largest).astype(np.uint8)
    if tiff_layout and tiff_layout.inverted:
        pixels = 255 - pixels
    if "transparency" not in image.info:
        return Image.fromarray(pixels)
    alpha = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(pixels), Image.fromarray(alpha)])


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # an image with corrupt EXIF data is still readable
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda x: x)(pixels))


def _describe_failure(content: bytes, error: Exception) -> str:
    if not content:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in a supported format ({', '.join(FORMATS)})"
    return f"{error}" or type(error).__name__
