"""Files that would take gigabytes or minutes to decode are rejected quickly."""

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import images

MAX_PIXELS = 64_000_000


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def zeros(count):
    """Returns so many zeros, deflated: a thousandth of the size."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(1 << 20, count - i))) for i in range(0, count, 1 << 20)]
    return b"".join(parts) + packer.flush()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(extra=b"", width=9, height=9, bits=8, kind=2, data=None):
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    data = zeros(height * (1 + 3 * width)) if data is None else data
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(extra=b"", **options):
    content = save(Image.new("L", options.pop("size", (9, 9)), 9), "jpeg", **options)
    return content[:2] + extra + content[2:]


def scans(count):
    content = jpeg(size=(3000, 3000), progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * count + b"\xff\xd9"


def gif(extra):
    content = save(Image.new("P", (9, 9)), "gif")
    place = content.index(b",", 13 + (3 << ((content[10] & 7) + 1)))
    return content[:place] + extra + content[place:]


def webp(width, height):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    content = bytearray(save(frames[0], "webp", save_all=True, append_images=frames[1:]))
    content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def bmp(width, height, data):
    palette = bytes(1024)
    sizes = (40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)  # 8 bits in runs
    header = struct.pack("<IiiHHIIiiII", *sizes)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + palette + data


def tiff(data, **tags):
    """Returns a TIFF; tags are LONGs, or pairs of a count and where the values are."""
    known = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 279: len(data)}
    known |= {int(tag[1:]): value for tag, value in tags.items()}
    body = data + bytes(len(data) % 2)
    entries = b""
    for tag, value in sorted(known.items()):
        count, value = value if isinstance(value, tuple) else (1, value)
        entries += struct.pack("<HHII", tag, 4, count, value)
    start = b"II*\0" + struct.pack("<I", 8 + len(body)) + body
    return start + struct.pack("<H", len(known)) + entries + bytes(4)


TEXT = chunk(b"zTXt", b"\0\0" + zeros((1 << 20) - 1))  # without a name, nobody counts it
EXIF = b"\xff\xe1\0\x09Exif\0\0x"
SIDE = 8000

PAYLOADS = {
    "a profile of 60 MB": (lambda: png(chunk(b"iCCP", b"x\0\0" + zeros(60 << 20))), "too large"),
    "texts of 2 GB": (lambda: png(TEXT * 2000), "more than 500 compressed texts"),
    "a million chunks": (lambda: png(chunk(b"prVt", b"") * 10**6), "more than 100,000 chunks"),
    "colours of 16 bits, one clear": (
        lambda: png(chunk(b"tRNS", bytes(6)), SIDE, SIDE, 16, 2, b""),
        "to decode, more than 512,000,000",
    ),
    "a column": (lambda: png(b"", 1, MAX_PIXELS, 8, 0, b""), "to decode, more than"),
    "a row": (lambda: png(b"", MAX_PIXELS, 1, 8, 2, b""), "to decode, more than"),
    "EXIF in a million segments": (lambda: jpeg(EXIF * 10**6), "more than 10,000 segments"),
    "EXIF in many segments": (lambda: jpeg(EXIF * 1000), "EXIF in more than 100 segments"),
    "zeros between segments": (
        lambda: jpeg()[:20] + bytes(30 << 20) + jpeg()[20:],
        "too many bytes between its segments",
    ),
    "marks between segments": (
        lambda: jpeg()[:20] + b"\xff" * (30 << 20) + jpeg()[20:],
        "too many bytes between its segments",
    ),
    "thousands of scans": (lambda: scans(5000), r"3000x3000 pixels of a JPEG in 5,0\d\d scans"),
    "a comment of 20 MB": (
        lambda: gif(b"!\xfe" + (b"\xff" + bytes(255)) * 80_000 + b"\0"),
        "more than a megabyte before its first picture",
    ),
    "a canvas of 4 gigapixels": (
        lambda: gif(b"")[:6] + b"\xff" * 4 + gif(b"")[10:],
        "more than 64,000,000 pixels",
    ),
    "a canvas of 268 megapixels": (lambda: webp(16383, 16383), "more than 64,000,000 pixels"),
    "a canvas of the limit": (lambda: webp(SIDE, SIDE), "of WEBP take 1,2.* bytes to decode"),
    "runs over a long row": (
        lambda: bmp(MAX_PIXELS, 1, b"\1\1" + b"\0\2\xff\xff" * 300),
        "of BMP take .* bytes to decode",
    ),
    "a tile of 1.8 gigabytes": (
        lambda: tiff(zeros(2 << 20), t322=60_000, t323=30_000, t324=8, t325=2000),
        "of TIFF take .* bytes to decode",
    ),
    "a strip of 8 gigabytes": (
        lambda: tiff(zeros(2 << 20), t256=SIDE, t257=SIDE, t258=16, t277=1, t278=SIDE),
        "of TIFF take .* bytes to decode",
    ),
    "a million strips": (
        lambda: tiff(bytes(8 << 20), t259=1, t257=10**6, t273=(10**6, 8), t279=8, t278=1),
        "1,000,000 strips or tiles",
    ),
    "tags that overlap": (
        lambda: tiff(bytes(9 << 20), **{f"t{40_000 + i}": (2 << 20, 8) for i in range(2000)}),
        "tags that are larger than the file",
    ),
    "tags without end": (
        lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60) + bytes(9 << 20),
        "a TIFF",
    ),
}

HARMLESS = {
    "texts": lambda: png(chunk(b"zTXt", b"a\0\0" + zeros(1000)) * 9),
    "a large profile": lambda: jpeg((b"\xff\xe2\xff\xff" + bytes(65533)) * 200),
    "scans": lambda: scans(0),
    "a comment": lambda: gif(b"!\xfe" + (b"\xff" + bytes(255)) * 99 + b"\0"),
    "extensions": lambda: gif(b"!\xf9\4\0\0\0\0\0" * 999),
    "runs": lambda: bmp(20, 2, bytes([20, 7, 0, 0, 20, 8, 0, 0, 0, 1])),
    "a strip that is said to be higher": lambda: tiff(zeros(100), t278=1 << 30),
    "a canvas": lambda: webp(16, 16),
}


def measured(content):
    """Returns what decoding gives, the seconds, and the KiB that memory grew by."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        result = images.decode(content, 3, (255, 255, 255), MAX_PIXELS)
    except images.UnreadableError as error:
        result = str(error)
    seconds = time.process_time() - start
    return result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.mark.parametrize("name", PAYLOADS)
def test_expensive_files_are_rejected_cheaply(name, tmp_path, monkeypatch):
    make, reason = PAYLOADS[name]
    content = make()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(images.UnreadableError, match=reason):
        images.decode(content, 3, (255, 255, 255), MAX_PIXELS)
    _, seconds, kibibytes = measured(content)
    assert seconds < 3
    assert kibibytes < 100_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", HARMLESS)
def test_ordinary_files_are_decoded(name):
    result, seconds, _ = measured(HARMLESS[name]())
    assert isinstance(result, np.ndarray), result
    assert seconds < 3


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_largest_image_takes_half_a_gigabyte(kind):
    content = save(Image.new("RGB", (SIDE, SIDE)), kind)
    result, _, kibibytes = measured(content)
    assert result.shape == (SIDE, SIDE, 3)
    assert kibibytes < 500_000


OTHERS = {
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n",
    "PDF": b"%PDF-1.4\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "ICO": b"\0\0\1\0\1\0",
    "PPM": b"P6 3 3 255\n" + bytes(27),
    "FITS": b"SIMPLE  =                    T",
    "a shortcut": b"L\0\0\0",
    "HTML": b"<html><img src='a.png'></html>",
}


@pytest.mark.parametrize("name", OTHERS)
def test_unsupported_formats_are_not_opened(name):
    with pytest.raises(images.UnreadableError, match="not an image in a supported format"):
        images.decode(OTHERS[name], 3, (255, 255, 255), MAX_PIXELS)
