"""JPEG: reading the header, and detecting a truncated picture.

Decoders silently fill a truncated picture with grey. To detect this, the file is decoded again with
extra data after its end: if no data was missing, the extra data changes no pixel.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from vit_jax.data.formats.errors import UnreadableError

START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_SCAN_MARKER = b"\xff\xda"  # at the start of each scan

# Frame markers. A frame header has the coding process, the size and the components.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_EXIF, _ADOBE, _SCAN = 0xE1, 0xEE, 0xDA
_MARKERS_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9)}

# Limits above what any camera writes. The decoding time grows with their square.
_MAX_SEGMENTS = 10_000
_MAX_EXIF_SEGMENTS = 100
_MAX_JUNK_BYTES = 1 << 16

# Zero bytes at the end of a file up to this number may be picture data, because a zero byte follows
# each 0xff in it. More are padding.
_MAX_TRAILING_ZEROS = 16

# Extra data that a decoder would use if the picture data went on, and its complement.
_PROBE_BYTES = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(8))
_PROBE_BYTES = _PROBE_BYTES.replace(b"\xff", b"").replace(b"\0", b"")
_RESTART_MARKERS = [bytes([0xFF, 0xD0 + i]) for i in range(8)]  # a decoder expects one of them
_PROBES = (
    _PROBE_BYTES + _PROBE_BYTES.join(_RESTART_MARKERS) + _PROBE_BYTES,
    bytes(255 - byte for byte in _PROBE_BYTES)
    + _PROBE_BYTES.join(_RESTART_MARKERS[4:] + _RESTART_MARKERS[:4])
    + _PROBE_BYTES,
)


class Header(NamedTuple):
    """The contents of a JPEG header, up to the first scan."""

    progressive: bool
    samples_per_pixel: float  # as stored, with chroma subsampling
    components: bytes  # the identifier of each component
    first_scan: int  # byte offset of the first scan header
    num_scans: int
    has_end: bool  # whether the file has an end marker


def read_header(content: bytes) -> Header:
    """Return the header of a JPEG.

    Raises:
      UnreadableError: The header is missing, or its format is not supported.
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
            if exif > _MAX_EXIF_SEGMENTS:
                raise UnreadableError(
                    f"a JPEG with EXIF in more than {_MAX_EXIF_SEGMENTS} segments"
                )
            coding, body = frame
            samples_per_pixel = _samples_per_pixel(body, adobe)
            components = body[6::3][: body[5]]
            has_end = content.rfind(_END, position) >= 0
            has_several_scans = coding in _PROGRESSIVE or segment[:1] != body[5:6]
            num_scans = 1 + content.count(_SCAN_MARKER, position) if has_several_scans else 1
            return Header(
                coding in _PROGRESSIVE, samples_per_pixel, components, position, num_scans, has_end
            )
    raise UnreadableError("a truncated JPEG")


def may_be_truncated(image: Image.Image) -> bool:
    """Return whether the last pixel is the grey that decoders fill truncated pictures with."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return last in (128, (128, 128, 128))


def load_complete(
    content: bytes, header: Header, load: Callable[[bytes], Image.Image]
) -> Image.Image:
    """Decode a JPEG whose picture data is complete; its end marker may be missing.

    Args:
      content: The bytes of the file.
      header: The header of the file.
      load: Function that decodes the bytes of a JPEG.

    Raises:
      UnreadableError: Part of the picture is missing.
    """
    end = content.find(_END, header.first_scan)
    picture = content[:end] if header.has_end else _strip_padding(content)
    others = {_digest(load(picture + probe + _END)) for probe in _PROBES}
    image = load(picture + _END)
    missing = not header.has_end and not _has_all_scans(picture, header)
    if missing or others != {_digest(image)}:
        raise UnreadableError("the file is truncated: part of its picture is missing")
    return image


def _segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the marker, the byte offset and the body of each segment."""
    position = 2
    junk = 0
    for _ in range(_MAX_SEGMENTS):
        start = position
        position = content.find(b"\xff", position)
        while content[position : position + 1] == b"\xff" and position - start <= _MAX_JUNK_BYTES:
            position += 1
        junk += position - start
        if position < start:
            return
        if junk > _MAX_JUNK_BYTES:
            raise UnreadableError("a JPEG with too many bytes between its segments")
        if position + 2 >= len(content):
            return
        marker = content[position]
        position += 1
        if marker in _MARKERS_WITHOUT_LENGTH:
            continue
        length = int.from_bytes(content[position : position + 2], "big")
        yield marker, position, content[position + 2 : position + length]
        position += length
    raise UnreadableError(f"a JPEG of more than {_MAX_SEGMENTS:,} segments")


def _samples_per_pixel(frame: bytes, adobe: bool) -> float:
    """Return the number of stored samples per pixel: 3 for RGB, 1.5 for 4:2:0 subsampling.

    Raises:
      UnreadableError: The bit depth or the number of components is not supported.
    """
    bits = frame[0] if frame else 0
    count = frame[5] if len(frame) > 5 else 0
    factors = [divmod(factor, 16) for factor in frame[7 : 6 + 3 * count : 3]]
    if bits != 8:
        raise UnreadableError(f"a JPEG of {bits} bits, expected 8")
    if count not in (1, 3, 4) or len(factors) != count:
        raise UnreadableError(f"a JPEG of {count} components, expected 1, 3 or 4")
    if count == 4 and not adobe:
        raise UnreadableError(
            "a JPEG of 4 components without the Adobe marker (are its inks inverted?)"
        )
    across = max(factor[0] for factor in factors) or 1
    down = max(factor[1] for factor in factors) or 1
    return sum(factor[0] * factor[1] for factor in factors) / (across * down)


def _strip_padding(content: bytes) -> bytes:
    """Remove half an end marker, and the zero padding of an interrupted download."""
    picture = content.rstrip(b"\0")
    zeros = len(content) - len(picture)
    if zeros > _MAX_TRAILING_ZEROS:
        return picture + b"\0" if picture.endswith(b"\xff") else picture
    return content.removesuffix(b"\xff")


def _has_all_scans(picture: bytes, header: Header) -> bool:
    """Return whether the scans have all bits of all coefficients of all components."""
    missing = {component: np.ones(64, bool) for component in header.components}
    position = header.first_scan
    while position > 1:
        length = int.from_bytes(picture[position : position + 2], "big")
        body = picture[position + 2 : position + length]
        if len(body) < 6:
            return False
        first, last, shifts = body[-3:]
        for component in body[1 : 1 + 2 * body[0] : 2]:
            if component in missing and not shifts & 15:  # this scan has the lowest bits
                missing[component][first : last + 1] = False
        position = 2 + picture.find(_SCAN_MARKER, position)
    return not any(bits.any() for bits in missing.values())


def _digest(image: Image.Image) -> bytes:
    """Return the SHA-256 digest of the pixels, computed in blocks of rows."""
    digest = hashlib.sha256()
    rows = max(1, (1 << 20) // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        digest.update(image.crop((0, top, image.width, bottom)).tobytes())
    return digest.digest()
