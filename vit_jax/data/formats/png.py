"""PNG: how much it holds besides its pixels, and transparent colours that Pillow compares wrong."""

import io
import struct

import numpy as np
from PIL import Image

from vit_jax.data.formats.errors import UnreadableError

START = b"\x89PNG\r\n\x1a\n"
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")  # each may grow to a megabyte

_MOST_CHUNKS = 100_000
_MOST_COMPRESSED = 500

_GREY, _COLOUR = 0, 2


def check(content: bytes) -> None:
    """Raise `UnreadableError` for a PNG that holds more than an image and what is said about it."""
    position = len(START)
    compressed = 0
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(content):
            return
        length = int.from_bytes(content[position : position + 4], "big")
        compressed += content[position + 4 : position + 8] in _COMPRESSED
        if compressed > _MOST_COMPRESSED:
            raise UnreadableError(f"a PNG with more than {_MOST_COMPRESSED} compressed texts")
        position += 12 + length
    raise UnreadableError(f"a PNG of more than {_MOST_CHUNKS:,} chunks")


def has_wide_transparent_colour(content: bytes, image: Image.Image) -> bool:
    """Return whether it has 16-bit colours, of which one is transparent."""
    return "transparency" in image.info and _kind(content) == (16, _COLOUR)


def adapt_transparency(content: bytes, image: Image.Image) -> Image.Image:
    """Return a PNG with a transparent colour that is compared in the bits that the file has.

    Args:
      content: The file.
      image: The same, loaded.
    """
    bits, kind = _kind(content)
    if kind == _GREY and bits in (2, 4) and "transparency" in image.info:
        image.info["transparency"] *= 255 // ((1 << bits) - 1)  # as the pixels are scaled
    if has_wide_transparent_colour(content, image):
        colour = np.array(image.info["transparency"], np.int64)
        high = np.asarray(image)
        clear = (high == colour >> 8) & (_low_bytes(content) == colour & 255)
        alpha = np.where(clear.all(axis=-1), 0, 255).astype(np.uint8)
        exif = image.info.get("exif")
        image = Image.merge("RGBA", [*image.split(), Image.fromarray(alpha)])
        image.info = {"exif": exif} if exif else {}
    return image


def _kind(content: bytes) -> tuple[int, int]:
    """Return bits and colour type."""
    bits, kind = struct.unpack_from("BB", content, 24)
    return bits, kind


def _low_bytes(content: bytes) -> np.ndarray:
    """Return the low bytes of 16-bit colours, (h, w, 3), of which Pillow takes the high ones."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        return np.asarray(image)
