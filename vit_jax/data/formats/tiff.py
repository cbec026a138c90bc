"""TIFF: reading its tags, and rejecting layouts that Pillow decodes incorrectly."""

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
_UNSPECIFIED, _ALPHA = 0, 2  # extra samples: unspecified, unassociated alpha

# Field types of a tag: the struct code of integers, and the size in bytes of all types.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}

_MAX_SAMPLES = 6
_MAX_PARTS = 300_000  # strips or tiles


class TiffLayout(NamedTuple):
    """The layout of the stored pixels of a TIFF."""

    bits: int  # per sample
    samples: int  # per pixel
    inverted: bool  # a grey image in which 0 is white
    part_bytes: int  # decoded size of the largest strip or tile; 0 if uncompressed

    def __str__(self) -> str:
        order = ", 0 for white" if self.inverted else ""
        return f"a TIFF of {self.samples} samples of {self.bits} bits{order}"


def read_tags(content: bytes) -> dict[int, Any]:
    """Return the integer fields of the first directory of a TIFF, by tag.

    For strip and tile offsets the value is their number.

    Raises:
      UnreadableError: The directory is missing or corrupt.
    """
    try:
        return _read_tags(content)
    except struct.error:
        raise UnreadableError("a TIFF whose directory is corrupt") from None


def _read_tags(content: bytes) -> dict[int, Any]:
    order = "<" if content[:1] == b"I" else ">"
    is_big_tiff = content[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(
        f"{order}Q" if is_big_tiff else f"{order}I", content, 8 if is_big_tiff else 4
    )
    (count,) = struct.unpack_from(f"{order}Q" if is_big_tiff else f"{order}H", content, start)
    start += 8 if is_big_tiff else 2
    entry = struct.Struct(f"{order}HHQ8s" if is_big_tiff else f"{order}HHI4s")
    tags: dict[int, Any] = {}
    total = 0
    for i in range(min(count, 1 << 16)):
        tag, field_type, length, data = entry.unpack_from(content, start + i * entry.size)
        size = length * _SIZES.get(field_type, 1)
        total += size if size > len(data) else 0
        if total > len(content):
            raise UnreadableError("a TIFF with tags that are larger than the file")
        if tag in (_STRIPS, _TILES):
            tags.setdefault(tag, length)
        elif field_type in _INTEGERS and 0 < length <= 64:
            (values_offset,) = struct.unpack(f"{order}Q" if is_big_tiff else f"{order}I", data)
            source, offset = (content, values_offset) if size > len(data) else (data, 0)
            tags.setdefault(
                tag, struct.unpack_from(f"{order}{length}{_INTEGERS[field_type]}", source, offset)
            )
    return tags


def check(tags: Tags, channels: int) -> TiffLayout:
    """Return the layout of the pixels of a TIFF, if Pillow decodes it correctly.

    Args:
      tags: The tags of the file, from `read_tags` or from Pillow.
      channels: Number of channels that the decoded image will have.

    Raises:
      UnreadableError: Pillow decodes this layout incorrectly or not at all.
    """
    samples = _first(tags, _SAMPLES, 1)
    bits = set(_all(tags, _BITS, (1,)))
    photometric = _photometric(tags)
    extra = _all(tags, _EXTRA, ())
    compression = _first(tags, _COMPRESSION, _RAW)
    sample_formats = _all(tags, _FORMAT, (_UNSIGNED,))
    if len(bits) != 1:
        raise UnreadableError(f"a TIFF whose samples have {_join(bits)} bits, expected the same")
    depth = bits.pop()
    if set(sample_formats) != {_UNSIGNED}:
        name = _FORMATS.get(max(sample_formats), "complex numbers")
        raise UnreadableError(
            f"a TIFF of {depth}-bit {name}, expected unsigned integers of 8 or 16 bits"
        )
    if depth not in (1, 2, 4, 8, 12, 16):
        raise UnreadableError(f"a TIFF of {depth}-bit integers, expected 8 or 16 bits")
    if photometric not in _COLOURS:
        raise UnreadableError(f"a TIFF in an unsupported colour space (photometric {photometric})")
    _check_samples(samples, photometric, extra, channels)
    planar = _first(tags, _PLANES, 1) == 2 and samples > 1
    if planar:
        _check_planes(depth, photometric, extra, compression)
    subsampling = _all(tags, _SUBSAMPLING, (2, 2))
    if photometric == _YCBCR and compression == _RAW and set(subsampling) != {1}:
        raise UnreadableError("an uncompressed TIFF with subsampled YCbCr")
    if photometric == _CMYK and _first(tags, _INKS, 1) != 1:
        raise UnreadableError("a TIFF of inks that are not CMYK")
    part_bytes = _part_bytes(tags, depth * (1 if planar else samples), compression)
    return TiffLayout(depth, samples, photometric == _WHITE_IS_ZERO, part_bytes)


def _photometric(tags: Tags) -> int:
    if _first(tags, _COMPRESSION, _RAW) == _OLD_JPEG:
        return _YCBCR
    if _PHOTOMETRIC not in tags:
        raise UnreadableError("a TIFF without a colour space (no photometric tag)")
    return _first(tags, _PHOTOMETRIC, 0)


def _check_planes(depth: int, photometric: int, extra: tuple[int, ...], compression: int) -> None:
    """Raise `UnreadableError` unless Pillow can decode these separately stored planes."""
    if photometric != _RGB or set(extra) - {_UNSPECIFIED, _ALPHA}:
        raise UnreadableError("a TIFF with separate planes that is neither RGB nor RGBA")
    if compression == _RAW and (depth != 8 or _UNSPECIFIED in extra):
        what = f"{depth} bits" if depth != 8 else "samples that are not alpha,"
        raise UnreadableError(f"an uncompressed TIFF of {what} with separate planes")


def _check_samples(samples: int, photometric: int, extra: tuple[int, ...], channels: int) -> None:
    """Raise `UnreadableError` unless the meaning of every sample is known."""
    names = {_RGB: "RGB", _CMYK: "CMYK", _YCBCR: "YCbCr", _PALETTE: "a palette"}
    name = names.get(photometric, "grey")
    if photometric not in names and samples > 2:
        raise UnreadableError(f"a TIFF of {samples} samples that are not RGB")
    if samples > _MAX_SAMPLES:
        raise UnreadableError(f"a TIFF of {samples} samples, more than {_MAX_SAMPLES}")
    if samples != _COLOURS[photometric] + len(extra):
        what = f"{samples} samples that are not {name}"
        if samples > _COLOURS[photometric] and not extra and photometric in names:
            what = f"{name} with {samples} samples but no description of the extra ones"
        raise UnreadableError(f"a TIFF of {what}")
    if extra and set(extra) == {_UNSPECIFIED} and channels in (2, 4):
        what = f"{name} and {len(extra)} samples that are not alpha"
        raise UnreadableError(f"a TIFF of {what}, expected data.channels 1 or 3")


def _part_bytes(tags: Tags, bits: int, compression: int) -> int:
    """Return the decoded size of the largest strip or tile in bytes; 0 if uncompressed.

    Raises:
      UnreadableError: There are too many strips or tiles.
    """
    width = _first(tags, _WIDTH, 0)
    height = _first(tags, _HEIGHT, 0)
    rows = min(_first(tags, _ROWS_PER_STRIP, height), height)
    if _TILES in tags:
        width = _first(tags, _TILE_WIDTH, 0)
        rows = _first(tags, _TILE_HEIGHT, 0)
    count = max(_count(tags, _STRIPS), _count(tags, _TILES))
    if count > _MAX_PARTS:
        raise UnreadableError(f"a TIFF of {count:,} strips or tiles, more than {_MAX_PARTS:,}")
    return 0 if compression == _RAW else math.ceil(width * bits / 8) * rows


def _all(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _first(tags: Tags, tag: int, default: int) -> int:
    return int(_all(tags, tag, (default,))[0])


def _count(tags: Tags, tag: int) -> int:
    """Return the number of strips or tiles; `tags` has the number, or Pillow's offsets."""
    value = tags.get(tag, 0)
    return value if isinstance(value, int) else len(value)


def _join(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))
