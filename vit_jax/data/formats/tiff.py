"""TIFF: its tags, and whether Pillow gives the pixels that they describe."""

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from vit_jax.data.formats.errors import UnreadableError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Tags = Mapping[int, Any]  # integers, or sequences of them

_WIDTH = 256
_HEIGHT = 257
_BITS = 258
_COMPRESSION = 259
_PHOTOMETRIC = 262
_STRIPS = 273
_SAMPLES = 277
_ROWS_PER_STRIP = 278
_PLANES = 284
_TILE_WIDTH = 322
_TILE_HEIGHT = 323
_TILES = 324
_INKS = 332
_EXTRA = 338
_FORMAT = 339
_SUBSAMPLING = 530

_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # samples of each photometric interpretation
_UNSIGNED = 1
_FORMATS = {2: "signed integers", 3: "floating point", 4: "untyped values", 5: "complex integers"}
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
_UNSPECIFIED, _ALPHA = 0, 2  # alpha that the colours are not multiplied by

# Integers of a tag: their size and code, by type.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}

_MOST_SAMPLES = 6
_MOST_PARTS = 300_000  # strips or tiles


class Kind(NamedTuple):
    """How the pixels of a TIFF are stored."""

    bits: int
    samples: int
    inverted: bool  # whether it is grey, and 0 is white
    part_bytes: int  # of its largest strip or tile, decoded; 0 where it is not compressed

    def __str__(self) -> str:
        order = ", 0 for white" if self.inverted else ""
        return f"a TIFF of {self.samples} samples of {self.bits} bits{order}"


def read_tags(content: bytes) -> dict[int, Any]:
    """Return the integers of the first directory of a TIFF, by tag; of strips, how many.

    Raises:
      UnreadableError: There is no directory, or one with more than the file has.
    """
    try:
        return _read_tags(content)
    except struct.error:
        raise UnreadableError("a TIFF whose directory is damaged") from None


def _read_tags(content: bytes) -> dict[int, Any]:
    order = "<" if content[:1] == b"I" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", content, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", content, start)
    start += 8 if big else 2
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    tags: dict[int, Any] = {}
    total = 0
    for i in range(min(count, 1 << 16)):
        tag, kind, length, data = entry.unpack_from(content, start + i * entry.size)
        size = length * _SIZES.get(kind, 1)
        total += size if size > len(data) else 0
        if total > len(content):
            raise UnreadableError("a TIFF with tags that are larger than the file")
        if tag in (_STRIPS, _TILES):
            tags.setdefault(tag, length)
        elif kind in _INTEGERS and 0 < length <= 64:
            (place,) = struct.unpack(f"{order}Q" if big else f"{order}I", data)
            source, offset = (content, place) if size > len(data) else (data, 0)
            tags.setdefault(
                tag, struct.unpack_from(f"{order}{length}{_INTEGERS[kind]}", source, offset)
            )
    return tags


def check(tags: Tags, channels: int) -> Kind:
    """Return how the pixels of a TIFF are stored.

    Args:
      tags: Those of the file.
      channels: What its pixels shall become.

    Raises:
      UnreadableError: Pillow reads this kind wrong, or not at all.
    """
    samples = _first(tags, _SAMPLES, 1)
    bits = set(_all(tags, _BITS, (1,)))
    photometric = _photometric(tags)
    extra = _all(tags, _EXTRA, ())
    compression = _first(tags, _COMPRESSION, _RAW)
    number = _all(tags, _FORMAT, (_UNSIGNED,))
    if len(bits) != 1:
        raise UnreadableError(f"a TIFF whose samples have {_join(bits)} bits, expected the same")
    depth = bits.pop()
    if set(number) != {_UNSIGNED}:
        name = _FORMATS.get(max(number), "complex numbers")
        raise UnreadableError(
            f"a TIFF of {depth}-bit {name}, expected unsigned integers of 8 or 16 bits"
        )
    if depth not in (1, 2, 4, 8, 12, 16):
        raise UnreadableError(f"a TIFF of {depth}-bit integers, expected 8 or 16 bits")
    if photometric not in _COLOURS:
        raise UnreadableError(f"a TIFF of colours that are not read (photometric {photometric})")
    _check_samples(samples, photometric, extra, channels)
    planar = _first(tags, _PLANES, 1) == 2 and samples > 1
    if planar:
        _check_planes(depth, photometric, extra, compression)
    subsampling = _all(tags, _SUBSAMPLING, (2, 2))
    if photometric == _YCBCR and compression == _RAW and set(subsampling) != {1}:
        raise UnreadableError("a TIFF of subsampled YCbCr, not compressed")
    if photometric == _CMYK and _first(tags, _INKS, 1) != 1:
        raise UnreadableError("a TIFF of inks that are not CMYK")
    part_bytes = _part_bytes(tags, depth * (1 if planar else samples), compression)
    return Kind(depth, samples, photometric == _WHITE_IS_ZERO, part_bytes)


def _photometric(tags: Tags) -> int:
    if _first(tags, _COMPRESSION, _RAW) == _OLD_JPEG:
        return _YCBCR
    if _PHOTOMETRIC not in tags:
        raise UnreadableError("a TIFF that does not say what its colours are")
    return _first(tags, _PHOTOMETRIC, 0)


def _check_planes(depth: int, photometric: int, extra: tuple[int, ...], compression: int) -> None:
    """Raise `UnreadableError` unless Pillow reads planes that are stored one after another."""
    if photometric != _RGB or set(extra) - {_UNSPECIFIED, _ALPHA}:
        raise UnreadableError("a TIFF with its planes apart that is neither RGB nor RGBA")
    if compression == _RAW and (depth != 8 or _UNSPECIFIED in extra):
        what = f"{depth} bits" if depth != 8 else "samples that are not alpha,"
        raise UnreadableError(f"a TIFF of {what} with its planes apart, not compressed")


def _check_samples(samples: int, photometric: int, extra: tuple[int, ...], channels: int) -> None:
    """Raise `UnreadableError` unless every sample is known."""
    names = {_RGB: "RGB", _CMYK: "CMYK", _YCBCR: "YCbCr", _PALETTE: "a palette"}
    name = names.get(photometric, "grey")
    if photometric not in names and samples > 2:
        raise UnreadableError(f"a TIFF of {samples} samples that are not RGB")
    if samples > _MOST_SAMPLES:
        raise UnreadableError(f"a TIFF of {samples} samples, more than {_MOST_SAMPLES}")
    if samples != _COLOURS[photometric] + len(extra):
        what = f"{samples} samples that are not {name}"
        if samples > _COLOURS[photometric] and not extra and photometric in names:
            what = f"{name} with {samples} samples that does not say what the others are"
        raise UnreadableError(f"a TIFF of {what}")
    if extra and set(extra) == {_UNSPECIFIED} and channels in (2, 4):
        what = f"{name} and {len(extra)} samples that are not alpha"
        raise UnreadableError(f"a TIFF of {what}, expected data.channels 1 or 3")


def _part_bytes(tags: Tags, bits: int, compression: int) -> int:
    """Return the decoded size of the largest strip or tile.

    Raises:
      UnreadableError: There are more of them than an image has.
    """
    width = _first(tags, _WIDTH, 0)
    height = _first(tags, _HEIGHT, 0)
    rows = min(_first(tags, _ROWS_PER_STRIP, height), height)
    if _TILES in tags:
        width = _first(tags, _TILE_WIDTH, 0)
        rows = _first(tags, _TILE_HEIGHT, 0)
    count = max(_count(tags, _STRIPS), _count(tags, _TILES))
    if count > _MOST_PARTS:
        raise UnreadableError(f"a TIFF of {count:,} strips or tiles, more than {_MOST_PARTS:,}")
    return 0 if compression == _RAW else math.ceil(width * bits / 8) * rows


def _all(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _first(tags: Tags, tag: int, default: int) -> int:
    return int(_all(tags, tag, (default,))[0])


def _count(tags: Tags, tag: int) -> int:
    """Return how many strips or tiles there are: from `read_tags`, or from Pillow's offsets."""
    value = tags.get(tag, 0)
    return value if isinstance(value, int) else len(value)


def _join(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))
