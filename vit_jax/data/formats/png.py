"""PNG: limits on its metadata, and transparent colours that Pillow compares incorrectly."""

import io
import struct

import numpy as np
from PIL import Image

from vit_jax.data.formats.errors import UnreadableError

START = b"\x89PNG\r\n\x1a\n"
_COMPRESSED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")  # each may expand to a megabyte

_MAX_CHUNKS = 100_000
_MAX_COMPRESSED_CHUNKS = 500

_GREY, _COLOUR = 0, 2


def check(content: bytes) -> None:
    """Reject a PNG with an unreasonable amount of metadata.

    Raises:
      UnreadableError: The file has too many chunks or compressed texts.
    """
    position = len(START)
    compressed = 0
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(content):
            return
        length = int.from_bytes(content[position : position + 4], "big")
        compressed += content[position + 4 : position + 8] in _COMPRESSED_CHUNKS
        if compressed > _MAX_COMPRESSED_CHUNKS:
            raise UnreadableError(f"a PNG with more than {_MAX_COMPRESSED_CHUNKS} compressed texts")
        position += 12 + length
    raise UnreadableError(f"a PNG of more than {_MAX_CHUNKS:,} chunks")


def has_16_bit_transparent_colour(content: bytes, image: Image.Image) -> bool:
    """Return whether a PNG is 16-bit RGB with one colour marked as transparent."""
    return "transparency" in image.info and _bits_and_colour_type(content) == (16, _COLOUR)


def adapt_transparency(content: bytes, image: Image.Image) -> Image.Image:
    """Correct the transparent colour of a PNG, which Pillow compares at the wrong bit depth.

    Args:
      content: The bytes of the file.
      image: The decoded image.

    Returns:
      The image; RGBA if the transparent colour had 16 bits per channel.
    """
    bits, colour_type = _bits_and_colour_type(content)
    if colour_type == _GREY and bits in (2, 4) and "transparency" in image.info:
        image.info["transparency"] *= 255 // ((1 << bits) - 1)  # scaled like the pixels
    if has_16_bit_transparent_colour(content, image):
        colour = np.array(image.info["transparency"], np.int64)
        high = np.asarray(image)
        clear = (high == colour >> 8) & (_low_bytes(content) == colour & 255)
        alpha = np.where(clear.all(axis=-1), 0, 255).astype(np.uint8)
        exif = image.info.get("exif")
        image = Image.merge("RGBA", [*image.split(), Image.fromarray(alpha)])
        image.info = {"exif": exif} if exif else {}
    return image


def _bits_and_colour_type(content: bytes) -> tuple[int, int]:
    """Return the bit depth and the colour type from the header."""
    bits, colour_type = struct.unpack_from("BB", content, 24)
    return bits, colour_type


def _low_bytes(content: bytes) -> np.ndarray:
    """Return the low bytes of 16-bit colours, uint8 (h, w, 3); Pillow keeps only the high bytes."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        return np.asarray(image)
