"""From one image file to pixels: which formats are read, and how each becomes 8-bit channels.

No format but `FORMATS` is opened, and no image over the pixel limit is decoded: both are known from
the header. Colour profiles are not applied.
"""

import io
import pathlib
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

# What a caller may pass as an image: a path, the bytes of a file, pixels, or a Pillow image.
AnyImage = str | pathlib.Path | bytes | np.ndarray | Image.Image

# Pillow's mode for a number of channels: grey, grey with alpha, colour, colour with alpha.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Pillow warns from 89 million pixels on; here the caller sets the limit.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

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


class UnreadableError(Exception):
    """An image cannot be read; the message says why."""


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
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableError(f"{width}x{height} pixels, more than {max_pixels:,}")
            image.load()
            return to_pixels(image, channels, background)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"more than {max_pixels:,} pixels") from error
    except Exception as error:  # decoders raise anything on a corrupt file
        raise UnreadableError(_reason(content, error)) from error


def to_pixels(
    image: Image.Image, channels: int, background: tuple[int, ...]
) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of a Pillow image, upright, uint8; channels and background as in `decode`.

    Raises:
      UnreadableError: The pixels are floating-point numbers.
    """
    pixels = np.asarray(_to_mode(image, MODES[channels], background))
    return _upright(pixels.reshape(image.height, image.width, channels), image)


def _to_mode(image: Image.Image, mode: str, background: tuple[int, ...]) -> Image.Image:
    if image.mode == "F":
        raise UnreadableError("its pixels are floating-point numbers, expected 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not mode.endswith("A"):
            behind = Image.new("RGBA", image.size, (*background, 255))
            behind.alpha_composite(image)
            image = behind
    return image if image.mode == mode else image.convert(mode)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # corrupt EXIF does not make the image unreadable
        orientation = 1
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda x: x)(pixels))


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image of a known kind ({', '.join(FORMATS)})"
    return f"{error}" or type(error).__name__
