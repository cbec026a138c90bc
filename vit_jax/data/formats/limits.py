"""What reading an image may cost: a small file must not take gigabytes, or minutes."""

from PIL import Image

from vit_jax.data.formats import jpeg, png, tiff
from vit_jax.data.formats.errors import UnreadableError

# A picture takes up to so many bytes for each of the pixels that are allowed; a small one may more.
_BYTES_PER_PIXEL = 8
_SMALL = 1 << 26

_GIF_STARTS = (b"GIF87a", b"GIF89a")
_MOST_BEFORE_GIF = 1 << 20  # bytes: Pillow's time grows with the square of those of a comment

# Bytes that Pillow keeps for each row, and for the columns of two: they count in thin images.
_BYTES_PER_LINE = 16

# Each scan of a JPEG goes over all of its pixels; an image of the limit may have so many.
_MOST_SCANS = 20

# Run-length encoded BMPs are decoded in Python, a byte at a time.
_BMP_RUNS = 100


def check_structure(content: bytes) -> None:
    """Raise `UnreadableError` for a file that costs much before its pixels are decoded."""
    if content.startswith(png.START):
        png.check(content)
    elif content.startswith(_GIF_STARTS) and _gif_picture(content) > _MOST_BEFORE_GIF:
        raise UnreadableError("a GIF with more than a megabyte before its first picture")


def check_cost(
    image: Image.Image,
    channels: int,
    max_pixels: int,
    header: jpeg.Header | None = None,
    kind: tiff.Kind | None = None,
    *,
    merged: bool = False,
) -> None:
    """Raise `UnreadableError` for an image that takes more memory than ordinary ones of the limit.

    Args:
      image: Opened, but not loaded.
      channels: What its pixels become.
      max_pixels: The limit.
      header: Of a JPEG.
      kind: Of a TIFF.
      merged: Whether an alpha channel is made beside it.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableError(f"{width}x{height} pixels, more than {max_pixels:,}")
    if header is not None and header.scans > _MOST_SCANS * max(1, max_pixels / (width * height)):
        raise UnreadableError(f"{width}x{height} pixels of a JPEG in {header.scans:,} scans")
    stored = 1 if image.mode in ("1", "L", "P") else 4
    working = float(channels)
    if header is not None and header.progressive:
        working = max(working, 2 * header.samples)
    if merged:
        working += 10
    if image.format == "WEBP":
        working += 12  # two canvases and a frame
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        working += _BMP_RUNS
    needed = round(width * height * (stored + working)) + (width + height) * _BYTES_PER_LINE
    needed += kind.part_bytes if kind else 0
    allowed = max(_BYTES_PER_PIXEL * max_pixels, _SMALL)
    if needed > allowed:
        problem = f"{width}x{height} pixels of this kind of {image.format} take {needed:,} bytes"
        raise UnreadableError(f"{problem} to decode, more than {allowed:,}")


def _gif_picture(content: bytes) -> int:
    """Return where the first picture of a GIF begins."""
    position = 13
    if len(content) > position and content[10] & 128:
        position += 3 << ((content[10] & 7) + 1)
    while content[position : position + 1] == b"!" and position <= _MOST_BEFORE_GIF:
        position += 2
        while size := int.from_bytes(content[position : position + 1]):
            position += 1 + size
        position += 1
    return position
