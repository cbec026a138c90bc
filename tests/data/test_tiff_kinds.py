"""Each TIFF layout is decoded correctly or rejected with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import images

ROWS, COLUMNS = np.mgrid[0:12, 0:20]
RGB = np.stack([COLUMNS * 12, ROWS * 20, 255 - COLUMNS * 12], -1).astype(np.uint8)
GREY = RGB[..., 0]
BAND = RGB[..., 1] + np.uint8(30)
RAW, DEFLATE = 1, 8
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOUR, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2
UNSIGNED, SIGNED, FLOAT, UNTYPED, COMPLEX = 1, 2, 3, 4, 6


def write(samples, photometric, *, extra=(), planar=False, kind=UNSIGNED, order="<", **options):
    """Returns a TIFF of one strip, or one for each plane; samples are (h, w) or (h, w, samples)."""
    compression = options.pop("compression", RAW)
    stacked = samples.reshape(*samples.shape[:2], -1)
    count = stacked.shape[2]
    bits = options.pop("bits", stacked.dtype.itemsize * 8)
    planes = [stacked[..., i] for i in range(count)] if planar else [stacked]
    strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    if bits == 1:
        strips = [np.packbits(stacked[..., 0], axis=-1).tobytes()]
    if compression == DEFLATE:
        strips = [zlib.compress(strip) for strip in strips]
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    height, width = stacked.shape[:2]
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * count),
        259: ("H", [compression]),
        262: ("H", [photometric]),
        273: ("I", starts),
        277: ("H", [count]),
        278: ("I", [height]),
        279: ("I", list(map(len, strips))),
        284: ("H", [2 if planar else 1]),
        339: ("H", [kind] * count),
        **({338: ("H", list(extra))} if extra else {}),
        **{int(tag[1:]): ("H", values) for tag, values in options.items()},
    }
    body = b"".join(strips)
    body += bytes(len(body) % 2)
    entries = []
    for tag, (code, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(data) > 4:
            place = struct.pack(f"{order}I", 8 + len(body))
            body += data
            data = place
        number = {"H": 3, "I": 4}[code]
        entries.append(struct.pack(f"{order}HHI", tag, number, len(values)) + data.ljust(4, b"\0"))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return start + body + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4)


def wide(samples):
    return samples.astype(np.uint16) * 257


def grey(samples):
    return np.repeat(samples[..., None], 3, axis=-1)


def over(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


FOUR = np.dstack([RGB, BAND])
MULTIPLIED = np.dstack([np.rint(RGB * (BAND[..., None] / 255)).astype(np.uint8), BAND])
CMYK = np.dstack([GREY, BAND, GREY, BAND // 2])
INKED = np.asarray(Image.fromarray(CMYK, "CMYK").convert("RGB"))
BITS = (GREY > 100).astype(np.uint8)

RIGHT = {
    "rgb": (RGB, COLOUR, {}, RGB),
    "rgb, planes apart": (RGB, COLOUR, {"planar": True}, RGB),
    "rgb 16": (wide(RGB), COLOUR, {}, RGB),
    "rgb and a band": (FOUR, COLOUR, {"extra": [UNSPECIFIED]}, RGB),
    "rgb 16 and a band": (wide(FOUR), COLOUR, {"extra": [UNSPECIFIED]}, RGB),
    "rgb and two bands": (np.dstack([FOUR, BAND]), COLOUR, {"extra": [UNSPECIFIED] * 2}, RGB),
    "rgba": (FOUR, COLOUR, {"extra": [ALPHA]}, over(RGB, BAND)),
    "rgba 16": (wide(FOUR), COLOUR, {"extra": [ALPHA]}, over(RGB, BAND)),
    "rgba, planes apart": (FOUR, COLOUR, {"extra": [ALPHA], "planar": True}, over(RGB, BAND)),
    "multiplied by alpha": (MULTIPLIED, COLOUR, {"extra": [PREMULTIPLIED]}, over(RGB, BAND)),
    "grey": (GREY, BLACK_IS_ZERO, {}, grey(GREY)),
    "grey 16": (wide(GREY), BLACK_IS_ZERO, {}, grey(GREY)),
    "grey, inverted": (GREY, WHITE_IS_ZERO, {}, 255 - grey(GREY)),
    "1 bit": (BITS, BLACK_IS_ZERO, {"bits": 1}, 255 * grey(BITS)),
    "1 bit, inverted": (BITS, WHITE_IS_ZERO, {"bits": 1}, 255 - 255 * grey(BITS)),
    "grey, alpha": (
        np.dstack([GREY, BAND]),
        BLACK_IS_ZERO,
        {"extra": [ALPHA]},
        over(grey(GREY), BAND),
    ),
    "grey, a band": (np.dstack([GREY, BAND]), BLACK_IS_ZERO, {"extra": [UNSPECIFIED]}, grey(GREY)),
    "cmyk": (CMYK, INKS, {}, INKED),
    "cmyk 16": (wide(CMYK), INKS, {}, INKED),
}


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", RIGHT)
def test_pixels(name, order, compression):
    samples, photometric, options, expected = RIGHT[name]
    content = write(samples, photometric, order=order, compression=compression, **options)
    pixels = images.decode(content, 3, (255, 255, 255), 10_000)
    np.testing.assert_allclose(pixels, expected, atol=1.5 if "multiplied" in name else 0.51)


def test_16_bits_with_0_for_white_are_correct_or_rejected():
    little = write(wide(GREY), WHITE_IS_ZERO)
    pixels = images.decode(little, 1, (255, 255, 255), 10_000)
    np.testing.assert_array_equal(pixels[..., 0], 255 - GREY)
    with pytest.raises(images.UnreadableError, match="16 bits, 0 for white, which Pillow cannot"):
        images.decode(write(wide(GREY), WHITE_IS_ZERO, order=">"), 1, (255, 255, 255), 10_000)


def test_compressed_planes_of_16_bits_are_decoded():
    content = write(wide(RGB), COLOUR, planar=True, compression=DEFLATE)
    np.testing.assert_array_equal(images.decode(content, 3, (255, 255, 255), 10_000), RGB)


TWO = np.dstack([GREY, BAND])
SEVEN = np.dstack([FOUR, RGB])

REFUSED = {
    "float16": (GREY.astype(np.float16), BLACK_IS_ZERO, {"kind": FLOAT}, "16-bit floating point"),
    "float32": (GREY.astype(np.float32), BLACK_IS_ZERO, {"kind": FLOAT}, "32-bit floating point"),
    "float32, 0 for white": (GREY.astype("f4"), WHITE_IS_ZERO, {"kind": FLOAT}, "32-bit floating"),
    "float64": (GREY.astype(np.float64), BLACK_IS_ZERO, {"kind": FLOAT}, "64-bit floating point"),
    "complex": (GREY.astype(np.complex64), BLACK_IS_ZERO, {"kind": COMPLEX}, "64-bit complex"),
    "untyped": (GREY, BLACK_IS_ZERO, {"kind": UNTYPED}, "8-bit untyped values"),
    "int8": (GREY.astype(np.int8), BLACK_IS_ZERO, {"kind": SIGNED}, "8-bit signed integers"),
    "int16": (GREY.astype(np.int16), BLACK_IS_ZERO, {"kind": SIGNED}, "16-bit signed integers"),
    "int32": (GREY.astype(np.int32), BLACK_IS_ZERO, {"kind": SIGNED}, "32-bit signed integers"),
    "uint32": (GREY.astype(np.uint32), BLACK_IS_ZERO, {}, "32-bit integers"),
    "uint64": (GREY.astype(np.uint64), BLACK_IS_ZERO, {}, "64-bit integers"),
    "four of grey": (FOUR, BLACK_IS_ZERO, {}, "a TIFF of 4 samples that are not RGB"),
    "four, one unknown": (FOUR, COLOUR, {}, "RGB with 4 samples but no description"),
    "seven": (SEVEN, COLOUR, {"extra": [UNSPECIFIED] * 4}, "7 samples, more than 6"),
    "planes of 16 bits": (wide(RGB), COLOUR, {"planar": True}, "16 bits with separate planes"),
    "planes of grey": (
        TWO,
        BLACK_IS_ZERO,
        {"planar": True, "extra": [ALPHA]},
        "neither RGB nor RGBA",
    ),
    "planes of inks": (
        CMYK,
        INKS,
        {"planar": True},
        "separate planes that is neither RGB nor RGBA",
    ),
    "other inks": (CMYK, INKS, {"_332": [2]}, "inks that are not CMYK"),
    "subsampled": (RGB, YCBCR, {}, "subsampled YCbCr"),
    "raw of a camera": (wide(GREY), 32803, {}, r"unsupported colour space \(photometric 32803\)"),
    "16 bits and alpha": (
        wide(TWO),
        BLACK_IS_ZERO,
        {"extra": [ALPHA]},
        "2 samples of 16 bits, which",
    ),
    "a compression of its own": (RGB, COLOUR, {"compression": 34887}, "3 samples of 8 bits"),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_layouts_are_rejected_with_the_reason(name, order):
    samples, photometric, options, reason = REFUSED[name]
    with pytest.raises(images.UnreadableError, match=reason):
        images.decode(write(samples, photometric, order=order, **options), 3, (0, 0, 0), 10_000)


@pytest.mark.parametrize(
    ("samples", "photometric", "channels"),
    [(FOUR, COLOUR, 4), (FOUR, COLOUR, 2), (wide(FOUR), COLOUR, 4), (TWO, BLACK_IS_ZERO, 2)],
)
def test_an_extra_sample_that_is_not_alpha_is_dropped(samples, photometric, channels):
    content = write(samples, photometric, extra=[UNSPECIFIED])
    with pytest.raises(
        images.UnreadableError, match=r"1 samples that are not alpha, expected data\.ch"
    ):
        images.decode(content, channels, (255, 255, 255), 10_000)


def test_pillow_images_are_checked_too():
    image = Image.open(io.BytesIO(write(wide(RGB), COLOUR, planar=True)))
    with image, pytest.raises(images.UnreadableError, match="16 bits with separate planes"):
        images.to_pixels(image, 3, (255, 255, 255))
    with Image.open(io.BytesIO(write(wide(GREY), WHITE_IS_ZERO))) as image:
        pixels = images.to_pixels(image, 1, (255, 255, 255))
    np.testing.assert_array_equal(pixels[..., 0], 255 - GREY)
    for mode in ("I", "F"):
        with pytest.raises(images.UnreadableError, match="expected 8 or 16 bits"):
            images.to_pixels(Image.new(mode, (3, 3)), 3, (255, 255, 255))


def test_a_corrupt_directory_is_rejected():
    content = write(RGB, COLOUR)
    for end in (6, 12, len(content) - 30):
        with pytest.raises(images.UnreadableError, match="a TIFF"):
            images.decode(content[:end], 3, (255, 255, 255), 10_000)
