"""JPEG: its header, and whether all of its picture is there.

A decoder fills what is missing with grey, and says nothing. It is found by adding other data at the
end of the picture: where nothing is missing, no pixel changes.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from vit_jax.data.formats.errors import UnreadableError

START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_SCANS = b"\xff\xda"  # how each begins

# Frames: how the picture is coded, size, and components.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_EXIF, _ADOBE, _SCAN = 0xE1, 0xEE, 0xDA
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}  # markers without a length

# More than any camera writes; the cost grows with the square.
_MOST_SEGMENTS = 10_000
_MOST_EXIF = 100
_MOST_JUNK = 1 << 16

# How many zeros a picture may end with; one follows each 0xff in it.
_MOST_ZEROS = 16

# Bits that would be read as something where a picture goes on, and their complement.
_BITS = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(8))
_BITS = _BITS.replace(b"\xff", b"").replace(b"\0", b"")
_RESTARTS = [bytes([0xFF, 0xD0 + i]) for i in range(8)]  # of which a decoder awaits one
_NOISES = (
    _BITS + _BITS.join(_RESTARTS) + _BITS,
    bytes(255 - byte for byte in _BITS) + _BITS.join(_RESTARTS[4:] + _RESTARTS[:4]) + _BITS,
)


class Header(NamedTuple):
    """What a JPEG says before its first scan."""

    progressive: bool
    samples: float  # for each pixel, as stored
    components: bytes  # their names
    scan: int  # where the first scan begins
    scans: int  # how many there are
    has_end: bool  # whether it says where it ends


def read_header(content: bytes) -> Header:
    """Return the header of a JPEG.

    Raises:
      UnreadableError: It is of a kind that is not read, or has none.
    """
    frame = None
    adobe = False
    exif = 0
    for marker, position, segment in _segments(content):
        if marker in _FRAMES:
            frame = marker, segment
        adobe |= marker == _ADOBE and segment.startswith(b"Adobe")
        exif += marker == _EXIF and segment.startswith(b"Exif")
        if marker == _SCAN and frame:
            if exif > _MOST_EXIF:
                raise UnreadableError(f"a JPEG with EXIF in more than {_MOST_EXIF} segments")
            kind, body = frame
            samples = _samples(body, adobe)
            names = body[6::3][: body[5]]
            has_end = content.rfind(_END, position) >= 0
            several = kind in _PROGRESSIVE or segment[:1] != body[5:6]
            scans = 1 + content.count(_SCANS, position) if several else 1
            return Header(kind in _PROGRESSIVE, samples, names, position, scans, has_end)
    raise UnreadableError("a JPEG that ends before its picture")


def looks_cut(image: Image.Image) -> bool:
    """Return whether the last pixel is what a decoder fills with."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return last in (128, (128, 128, 128))


def load_whole(content: bytes, header: Header, load: Callable[[bytes], Image.Image]) -> Image.Image:
    """Return the image of a JPEG, if all of its picture is there; its end may be missing.

    Args:
      content: The file.
      header: Its header.
      load: Decodes a file.

    Raises:
      UnreadableError: Part of the picture is missing.
    """
    end = content.find(_END, header.scan)
    picture = content[:end] if header.has_end else _without_filling(content)
    others = {_digest(load(picture + noise + _END)) for noise in _NOISES}  # one at a time
    image = load(picture + _END)
    missing = not header.has_end and not _has_all_scans(picture, header)
    if missing or others != {_digest(image)}:
        raise UnreadableError("it is truncated: part of its picture is missing")
    return image


def _segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, position and body of each segment."""
    position = 2
    junk = 0
    for _ in range(_MOST_SEGMENTS):
        start = position
        position = content.find(b"\xff", position)
        while content[position : position + 1] == b"\xff" and position - start <= _MOST_JUNK:
            position += 1
        junk += position - start
        if position < start:
            return
        if junk > _MOST_JUNK:
            raise UnreadableError("a JPEG with too much between its segments")
        if position + 2 >= len(content):
            return
        marker = content[position]
        position += 1
        if marker in _ALONE:
            continue
        length = int.from_bytes(content[position : position + 2], "big")
        yield marker, position, content[position + 2 : position + length]
        position += length
    raise UnreadableError(f"a JPEG of more than {_MOST_SEGMENTS:,} segments")


def _samples(frame: bytes, adobe: bool) -> float:
    """Return how many samples there are for each pixel.

    Raises:
      UnreadableError: The samples are of a kind that is not read.
    """
    bits = frame[0] if frame else 0
    count = frame[5] if len(frame) > 5 else 0
    factors = [divmod(factor, 16) for factor in frame[7 : 6 + 3 * count : 3]]
    if bits != 8:
        raise UnreadableError(f"a JPEG of {bits} bits, expected 8")
    if count not in (1, 3, 4) or len(factors) != count:
        raise UnreadableError(f"a JPEG of {count} components, expected 1, 3 or 4")
    if count == 4 and not adobe:
        raise UnreadableError("a JPEG of 4 components that does not say if its inks are inverted")
    across = max(factor[0] for factor in factors) or 1
    down = max(factor[1] for factor in factors) or 1
    return sum(factor[0] * factor[1] for factor in factors) / (across * down)


def _without_filling(content: bytes) -> bytes:
    """Return a file without half an end, and without the zeros of a download that stopped."""
    picture = content.rstrip(b"\0")
    zeros = len(content) - len(picture)
    if zeros > _MOST_ZEROS:
        return picture + b"\0" if picture.endswith(b"\xff") else picture
    return content.removesuffix(b"\xff")


def _has_all_scans(picture: bytes, header: Header) -> bool:
    """Return whether the scans give every bit of every coefficient of every component."""
    missing = {component: np.ones(64, bool) for component in header.components}
    position = header.scan
    while position > 1:
        length = int.from_bytes(picture[position : position + 2], "big")
        body = picture[position + 2 : position + length]
        if len(body) < 6:
            return False
        first, last, shifts = body[-3:]
        for component in body[1 : 1 + 2 * body[0] : 2]:
            if component in missing and not shifts & 15:  # these are the lowest bits
                missing[component][first : last + 1] = False
        position = 2 + picture.find(_SCANS, position)
    return not any(bits.any() for bits in missing.values())


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.sha256()
    rows = max(1, (1 << 20) // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        digest.update(image.crop((0, top, image.width, bottom)).tobytes())
    return digest.digest()
