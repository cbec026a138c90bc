"""Unusual images are decoded correctly, and corrupt ones are rejected with a reason."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import images

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 128, 0), (0, 0, 255), (90, 90, 90)
# 2 rows, 3 columns, no symmetry: every orientation is another picture.
RGB = np.array([[RED, GREEN, BLUE], [GREY, (10, 20, 30), (255, 255, 0)]], np.uint8)
L = np.array([[0, 90, 255], [1, 128, 254]], np.uint8)
ALPHA = np.array([[255, 0, 128], [255, 64, 255]], np.uint8)
BACKGROUND = (255, 255, 255)


def save(image, kind="png", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def decode(content, channels=3, background=BACKGROUND, max_pixels=10_000):
    return images.decode(content, channels, background, max_pixels)


def over(pixels, alpha, background=BACKGROUND):
    """Returns colours over a background, as exact numbers."""
    share = alpha[..., None] / 255
    return pixels * share + np.array(background) * (1 - share)


def grey(pixels):
    return np.repeat(pixels[..., None], 3, axis=-1)


def palette(**options):
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8)).convert("P")
    image.putdata([0, 1, 2, 2, 1, 0])
    image.putpalette([*RED, *GREEN, *BLUE])
    return save(image, **options)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def without(pixels, colour):
    """Returns pixels with a colour replaced by the background."""
    return np.where(np.all(pixels == np.array(colour), axis=-1, keepdims=True), 255, pixels)


def png(rows, width, bits, colour_type, extra=b""):
    """Returns a PNG, written by hand: grey is colour type 0, RGB 2, palette 3, grey and alpha 4."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def png16(pixels, colour_type, extra=b""):
    rows = [row.astype(">u2").tobytes() for row in pixels]
    return png(rows, pixels.shape[1], 16, colour_type, extra)


def clear(*values):
    """Returns the chunk that makes a grey value or a colour transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


# RGB in 16 bits, but for one pixel that differs from the first in a low bit only.
NEAR = RGB.astype(int) * 257
NEAR[1, 2] = NEAR[0, 0] + (0, 0, 1)
NEARLY = RGB.astype(float)
NEARLY[1, 2] = RED
NEARLY[0, 0] = 255


WIDE = np.array([[0, 257, 65535], [32768, 25700, 128]], np.uint16)
NARROW = np.array([[0, 1, 255], [128, 100, 0]], np.uint8)  # WIDE / 257, rounded
CMYK = np.array([[(0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]], np.uint8)
PALETTE = np.array([[RED, GREEN, BLUE], [BLUE, GREEN, RED]])
RGBA = np.concatenate([RGB, ALPHA[..., None]], axis=-1)
GIF = [Image.fromarray(RGB).quantize(8), Image.fromarray(RGB[::-1]).quantize(8)]

GOLDEN = {
    "png": (save(RGB), RGB),
    "bmp": (save(RGB, "bmp"), RGB),
    "tiff": (save(RGB, "tiff"), RGB),
    "webp": (save(RGB, "webp", lossless=True), RGB),
    "gif": (save(GIF[0], "gif"), RGB),
    "gif, animated": (save(GIF[0], "gif", save_all=True, append_images=GIF[1:]), RGB),
    "grey": (save(L), grey(L)),
    "grey jpeg": (save(np.full((8, 8), 77, np.uint8), "jpeg"), np.full((8, 8, 3), 77)),
    "1-bit": (save(Image.fromarray(L > 100)), grey(np.where(L > 100, 255, 0))),
    "palette": (palette(), PALETTE),
    "palette, one clear": (palette(transparency=1), without(PALETTE, GREEN)),
    "palette, half clear": (
        palette(transparency=bytes([255, 255, 128])),
        over(PALETTE, np.array([[255, 255, 128], [128, 255, 255]])),
    ),
    "gif, one clear": (palette(kind="gif", transparency=0), without(PALETTE, RED)),
    "rgba": (save(RGBA), over(RGB, ALPHA)),
    "rgba webp": (save(RGBA, "webp", lossless=True, exact=True), over(RGB, ALPHA)),
    "grey and alpha": (
        save(Image.fromarray(np.stack([L, ALPHA], -1), "LA")),
        over(grey(L), ALPHA),
    ),
    "rgb, a clear colour": (save(RGB, transparency=RED), without(RGB, RED)),
    "cmyk": (save(Image.fromarray(CMYK, "CMYK"), "tiff"), [[BACKGROUND, RED, (0, 0, 0)]]),
    "16-bit grey": (png16(WIDE, 0), grey(NARROW)),
    "16-bit grey tiff": (save(WIDE, "tiff"), grey(NARROW)),
    "16-bit rgb": (png16(RGB.astype(int) * 257, 2), RGB),
    "16-bit grey and alpha": (
        png16(np.stack([L, ALPHA], -1).astype(int) * 257, 4),
        over(grey(L), ALPHA),
    ),
    "16-bit grey, one clear": (png16(WIDE, 0, clear(25700)), without(grey(NARROW), (100,) * 3)),
    "16-bit rgb, a clear colour": (png16(NEAR, 2, clear(65535, 0, 0)), NEARLY),
    "2-bit grey, one clear": (
        png([b"\x18"], 3, 2, 0, clear(1)),
        [[(0,) * 3, (255,) * 3, (170,) * 3]],
    ),
    "4-bit grey, one clear": (
        png([b"\x01\x20"], 3, 4, 0, clear(2)),
        [[(0,) * 3, (17,) * 3, (255,) * 3]],
    ),
    "png without its end": (save(RGB)[:-12], RGB),
    "anything after the end": (save(RGB) + b"more" * 9, RGB),
    "1x1": (save(RGB[:1, :1]), [[RED]]),
    "1x500": (save(np.tile(RGB[:1, :1], (1, 500, 1))), [[RED] * 500]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_pixels(name):
    content, expected = GOLDEN[name]
    pixels = decode(content)
    assert pixels.dtype == np.uint8
    assert pixels.shape == np.shape(expected)
    # Only what is half transparent, or a JPEG, is rounded.
    np.testing.assert_allclose(pixels, expected, atol=0.51 + 0.5 * ("jpeg" in name))


def test_cmyk_jpegs_are_not_inverted():
    flat = np.broadcast_to(np.array([0, 255, 255, 0], np.uint8), (16, 16, 4))
    pixels = decode(save(Image.fromarray(np.ascontiguousarray(flat), "CMYK"), "jpeg", quality=95))
    np.testing.assert_allclose(pixels, np.broadcast_to(RED, (16, 16, 3)), atol=4)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_applied(orientation, kind):
    blocks = np.kron(RGB, np.ones((16, 16, 1), np.uint8))
    # How each orientation stores an upright picture (TIFF 6.0, tag 274); 9 does not exist.
    stored = {
        2: blocks[:, ::-1],
        3: blocks[::-1, ::-1],
        4: blocks[::-1],
        5: blocks.swapaxes(0, 1),
        6: np.rot90(blocks, 1),
        7: np.rot90(blocks, 2).swapaxes(0, 1),
        8: np.rot90(blocks, -1),
    }.get(orientation, blocks)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    pixels = decode(save(np.ascontiguousarray(stored), kind, exif=exif, **options))
    np.testing.assert_allclose(pixels, blocks, atol=12 if kind == "jpeg" else 0)


def test_corrupt_exif_is_ignored():
    content = save(RGB, "jpeg", exif=b"Exif\0\0garbage that is no TIFF header")
    assert decode(content).shape == RGB.shape


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_channels(channels, mode):
    pixels = decode(save(RGB), channels)
    np.testing.assert_array_equal(
        pixels, np.asarray(Image.fromarray(RGB).convert(mode)).reshape(2, 3, channels)
    )


def test_alpha_is_kept_if_the_result_has_an_alpha_channel():
    np.testing.assert_array_equal(decode(save(RGBA), 4), RGBA)


def test_transparent_pixels_show_the_background():
    clear = np.zeros((1, 1, 4), np.uint8)
    assert decode(save(clear), background=(1, 2, 3)).tolist() == [[[1, 2, 3]]]
    assert decode(save(clear), 1, background=(9, 9, 9)).tolist() == [[[9]]]


BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"not an image at all", "not an image in a supported format"),
    "truncated jpeg": (save(np.tile(RGB, (40, 40, 1)), "jpeg")[:-500], "truncated"),
    "truncated png": (save(np.tile(RGB, (40, 40, 1)))[:-60], "truncated"),
    "header only": (save(RGB)[:40], "not an image"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not an image in a supported",
    ),
    "floats": (save(Image.fromarray(np.ones((2, 2), np.float32)), "tiff"), "32-bit floating point"),
    "a flipped chunk": (save(RGB).replace(b"IDAT", b"IDAX"), "not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_corrupt_files_are_rejected_with_a_reason(name):
    content, reason = BROKEN[name]
    with pytest.raises(images.UnreadableError, match=reason) as error:
        decode(content)
    assert str(error.value)


JPEG_FORMS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive, restarts": {"progressive": True, "restart_marker_blocks": 2},
    "own tables": {"optimize": True},
    "grey": {},
}


def photo(form):
    noise = np.random.default_rng(3).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((70, 50), Image.Resampling.BICUBIC)
    return save(image.convert("L") if form == "grey" else image, "jpeg", **JPEG_FORMS[form])


@pytest.mark.parametrize("form", JPEG_FORMS)
def test_a_jpeg_without_an_end_marker_has_all_its_pixels(form):
    content = photo(form)
    whole = decode(content)
    ends = [content[:-2], content[:-1], content[:-2] + bytes(4096), content + b"more"]
    for changed in ends:
        np.testing.assert_array_equal(decode(changed), whole)


@pytest.mark.parametrize("form", JPEG_FORMS)
def test_a_truncated_jpeg_is_rejected(form):
    content = photo(form)
    whole = decode(content)
    refused = 0
    for end in (*range(len(content) - 3, len(content) - 40, -1), len(content) * 2 // 3):
        for filling in (b"", bytes(4096)):
            try:
                pixels = decode(content[:end] + filling)
            except images.UnreadableError as error:
                assert "part of its picture is missing" in str(error)
                refused += 1
            else:  # a few last bits of padding
                np.testing.assert_array_equal(pixels, whole)
    assert refused > 60


def test_a_truncated_jpeg_with_an_end_marker_is_rejected():
    content = photo("baseline")
    with pytest.raises(images.UnreadableError, match="part of its picture is missing"):
        decode(content[: len(content) // 2] + b"\xff\xd9")
    grey = save(np.full((40, 30), 128, np.uint8), "jpeg")
    assert (decode(grey) == 128).all()
    assert (decode(grey[:-2]) == 128).all()


def test_a_progressive_jpeg_without_its_last_scans_is_rejected():
    content = photo("progressive")
    scans = [i for i in range(len(content)) if content[i : i + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for scan in scans[1:]:
        with pytest.raises(images.UnreadableError, match="part of its picture is missing"):
            decode(content[:scan])


def test_unsupported_jpegs_are_rejected_with_the_reason():
    content = photo("baseline")
    frame = content.index(b"\xff\xc0")
    for place, value, reason in ((4, 12, "of 12 bits"), (9, 2, "of 2 components")):
        changed = content[: frame + place] + bytes([value]) + content[frame + place + 1 :]
        with pytest.raises(images.UnreadableError, match=f"a JPEG {reason}"):
            decode(changed)
    inks = save(Image.fromarray(np.tile(CMYK, (8, 8, 1)), "CMYK"), "jpeg")
    mark = inks.index(b"\xff\xee")
    length = int.from_bytes(inks[mark + 2 : mark + 4], "big")
    with pytest.raises(images.UnreadableError, match="are its inks inverted"):
        decode(inks[:mark] + inks[mark + 2 + length :])


def test_large_images_are_converted_in_blocks(monkeypatch):
    contents = [GOLDEN[name][0] for name in GOLDEN]
    expected = [decode(content) for content in contents]
    monkeypatch.setattr(images, "_LARGE_IMAGE_PIXELS", 1)
    monkeypatch.setattr(images, "_BLOCK_PIXELS", 2)
    for content, whole in zip(contents, expected, strict=True):
        np.testing.assert_array_equal(decode(content), whole)


def bomb(side):
    """Returns a PNG of side x side black pixels, small as a file."""

    packer = zlib.compressobj(9)
    row = b"\0" * (side + 1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [9_000, 14_000])  # Pillow itself warns of one, and refuses one
def test_too_many_pixels_are_rejected_from_the_header(side):
    content = bomb(side)
    assert len(content) < 300_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(images.UnreadableError, match="more than 64,000,000"):
        decode(content, max_pixels=64_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_the_caller_sets_the_pixel_limit():
    assert decode(save(RGB), max_pixels=6).shape == (2, 3, 3)
    with pytest.raises(images.UnreadableError, match="3x2 pixels, more than 5"):
        decode(save(RGB), max_pixels=5)
