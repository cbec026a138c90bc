"""Limits on the memory and time that decoding one image may take."""

from PIL import Image

from vit_jax.data.formats import jpeg, png, tiff
from vit_jax.data.formats.errors import UnreadableError

# Decoding an image may take this many bytes per pixel of the pixel limit. Images that take less
# than 64 MiB are always allowed.
_BYTES_PER_PIXEL = 8
_ALWAYS_ALLOWED_BYTES = 1 << 26

_GIF_STARTS = (b"GIF87a", b"GIF89a")
# Bytes before the first picture of a GIF. Pillow's time grows with the square of a comment's
# length.
_MAX_GIF_PREFIX = 1 << 20

# Pillow's overhead per row and column, which matters for very thin images.
_BYTES_PER_LINE = 16

# Scans of a JPEG with as many pixels as the limit allows. Each scan visits all pixels.
_MAX_SCANS = 20

# Bytes per pixel for run-length encoded BMPs, which Pillow decodes in Python.
_BMP_RUN_LENGTH_BYTES = 100


def check_structure(content: bytes) -> None:
    """Reject a file whose metadata is expensive to read.

    Raises:
      UnreadableError: A PNG has too many chunks, or a GIF has too much data before its picture.
    """
    if content.startswith(png.START):
        png.check(content)
    elif content.startswith(_GIF_STARTS) and _gif_picture_offset(content) > _MAX_GIF_PREFIX:
        raise UnreadableError("a GIF with more than a megabyte before its first picture")


def check_cost(
    image: Image.Image,
    channels: int,
    max_pixels: int,
    header: jpeg.Header | None = None,
    tiff_layout: tiff.TiffLayout | None = None,
    *,
    adds_alpha: bool = False,
) -> None:
    """Reject an image that is too large, or takes too much memory or time to decode.

    Args:
      image: The image, opened but not decoded.
      channels: Number of channels of the result.
      max_pixels: Maximum height x width.
      header: The header, for a JPEG.
      tiff_layout: The layout of the pixels, for a TIFF.
      adds_alpha: Whether an alpha channel is made from a transparent colour.

    Raises:
      UnreadableError: The image exceeds one of the limits.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableError(f"{width}x{height} pixels, more than {max_pixels:,}")
    if header is not None and header.num_scans > _MAX_SCANS * max(1, max_pixels / (width * height)):
        raise UnreadableError(f"{width}x{height} pixels of a JPEG in {header.num_scans:,} scans")
    stored = 1 if image.mode in ("1", "L", "P") else 4
    working = float(channels)
    if header is not None and header.progressive:
        working = max(working, 2 * header.samples_per_pixel)
    if adds_alpha:
        working += 10
    if image.format == "WEBP":
        working += 12  # two canvases and a frame
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        working += _BMP_RUN_LENGTH_BYTES
    needed = round(width * height * (stored + working)) + (width + height) * _BYTES_PER_LINE
    needed += tiff_layout.part_bytes if tiff_layout else 0
    allowed = max(_BYTES_PER_PIXEL * max_pixels, _ALWAYS_ALLOWED_BYTES)
    if needed > allowed:
        problem = f"{width}x{height} pixels of this kind of {image.format} take {needed:,} bytes"
        raise UnreadableError(f"{problem} to decode, more than {allowed:,}")


def _gif_picture_offset(content: bytes) -> int:
    """Return the byte offset of the first picture of a GIF."""
    position = 13
    if len(content) > position and content[10] & 128:
        position += 3 << ((content[10] & 7) + 1)
    while content[position : position + 1] == b"!" and position <= _MAX_GIF_PREFIX:
        position += 2
        while size := int.from_bytes(content[position : position + 1]):
            position += 1 + size
        position += 1
    return position
