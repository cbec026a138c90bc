"""From one image file to pixels: which formats are read, and how each becomes 8-bit channels.

No format but `FORMATS` is opened, and no image over the pixel limit is decoded: both are known from
the header. What Pillow would read wrong is refused by name. Colour profiles are not applied.
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

# Pillow's mode for a number of channels: grey, grey with alpha, colour, colour with alpha.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Pillow warns from 89 million pixels on, where here the caller sets the limit; and of damaged tags.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Images of more pixels are converted in blocks of so many: they are not held in several forms.
_LARGE = 1 << 24
_BLOCK = 1 << 20

# EXIF's orientations: how the stored rows and columns become the upright picture.
_ORIENTATION = 0x0112
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
    """Return the pixels of an image file, upright, with 1 to 4 channels (see `MODES`).

    16-bit values are scaled, not clipped; of an animation the first frame is taken; without an
    alpha channel in the result, transparent pixels show the background.

    Args:
      content: The file.
      channels: The number of channels of the result.
      background: Red, green and blue behind transparent pixels, 0 to 255.
      max_pixels: The largest height times width that is decoded.

    Raises:
      UnreadableError: The file is not an image, is corrupt, or is too large.
    """
    try:
        pixels, orientation = _decode(content, channels, background, max_pixels)
        return _upright(pixels, orientation)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        most = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise UnreadableError(f"more than {most:,} pixels") from error
    except Exception as error:  # decoders raise anything on a corrupt file
        raise UnreadableError(_reason(content, error)) from error


def to_pixels(
    image: Image.Image, channels: int, background: tuple[int, ...]
) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of a Pillow image, upright, uint8; channels and background as in `decode`.

    Raises:
      UnreadableError: The pixels are neither of 8 nor of 16 bits, or Pillow reads them wrong.
    """
    kind = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        kind = tiff.check(dict(image.tag_v2), channels)
    image.load()
    return _upright(_to_pixels(image, channels, background, kind), _orientation(image))


def _decode(
    content: bytes, channels: int, background: tuple[int, ...], max_pixels: int
) -> tuple[np.ndarray, int]:
    """Return the pixels of a file as they are stored, and their orientation."""
    limits.check_structure(content)
    header = jpeg.read_header(content) if content.startswith(jpeg.START) else None
    kind = tiff.check(tiff.read_tags(content), channels) if content[:4] in tiff.STARTS else None

    def load(content: bytes) -> Image.Image:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            merged = image.format == "PNG" and png.has_wide_transparent_colour(content, image)
            limits.check_cost(image, channels, max_pixels, header, kind, merged=merged)
            image.load()
            return image

    try:
        image = _load_jpeg(content, header, load) if header else load(content)
    except Image.UnidentifiedImageError as error:
        if kind is None:
            raise
        raise UnreadableError(f"{kind}, which Pillow does not read") from error
    except OSError as error:
        if kind is None:
            raise
        problem = f"damaged, or compressed in a way that is not read ({error})"
        raise UnreadableError(f"{kind}, {problem}") from error
    if image.format == "PNG":
        image = png.adapt_transparency(content, image)
    return _to_pixels(image, channels, background, kind), _orientation(image)


def _load_jpeg(
    content: bytes, header: jpeg.Header, load: Callable[[bytes], Image.Image]
) -> Image.Image:
    """Return the image of a JPEG, if all of its picture is there; its end may be missing."""
    if header.has_end:
        image = load(content)
        if not jpeg.looks_cut(image):
            return image
    return jpeg.load_whole(content, header, load)


def _to_pixels(
    image: Image.Image, channels: int, background: tuple[int, ...], kind: tiff.Kind | None
) -> np.ndarray:
    """Return the pixels of a loaded image as they are stored, uint8 (h, w, c)."""
    width, height = image.size
    if width * height <= _LARGE:
        return _convert(image, channels, background, kind)
    columns = min(width, _BLOCK)
    rows = min(height, _BLOCK // columns)
    pixels = np.empty((height, width, channels), np.uint8)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            bottom, right = min(top + rows, height), min(left + columns, width)
            block = image.crop((left, top, right, bottom))
            pixels[top:bottom, left:right] = _convert(block, channels, background, kind)
    return pixels


def _convert(
    image: Image.Image, channels: int, background: tuple[int, ...], kind: tiff.Kind | None
) -> np.ndarray:
    mode = MODES[channels]
    if image.mode == "F":
        raise UnreadableError("its pixels are floating-point numbers, expected 8 or 16 bits")
    if image.mode == "I":
        raise UnreadableError("its pixels are 32-bit integers, expected 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = _narrow(image, kind)
    if image.mode == "La":  # grey, multiplied by its alpha
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not mode.endswith("A"):
            behind = Image.new("RGBA", image.size, (*background, 255))
            behind.alpha_composite(image)
            image = behind
    image = image if image.mode == mode else image.convert(mode)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _narrow(image: Image.Image, kind: tiff.Kind | None) -> Image.Image:
    """Return an image of up to 16 bits with 8, and its transparent value as alpha."""
    largest = (1 << kind.bits) - 1 if kind else 65535
    values = np.asarray(image).astype(np.uint32)
    pixels = ((values * 255 + largest // 2) // largest).astype(np.uint8)
    if kind and kind.inverted:
        pixels = 255 - pixels
    if "transparency" not in image.info:
        return Image.fromarray(pixels)
    alpha = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(pixels), Image.fromarray(alpha)])


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # corrupt EXIF does not make the image unreadable
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda x: x)(pixels))


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image of a known kind ({', '.join(FORMATS)})"
    return f"{error}" or type(error).__name__
