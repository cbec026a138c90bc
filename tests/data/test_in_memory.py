"""Whatever a caller has as an image is taken as it is meant, or refused by name."""

import io
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data import transforms
from vit_jax.data.images import UnreadableError
from vit_jax.data.sources.in_memory import InMemory

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
PIPELINE = transforms.for_evaluation(config_lib.Data(channels=3))


def encoded():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "png")  # its position is at its end
    return file


class Tensor:
    """Pixels of another library."""

    ndim = 3
    shape = PIXELS.shape

    def __array__(self, dtype=None, copy=None):
        return PIXELS


FORMS = {
    "bytes": lambda: encoded().getvalue(),
    "bytearray": lambda: bytearray(encoded().getvalue()),
    "memoryview": lambda: memoryview(encoded().getvalue()),
    "BytesIO": encoded,
    "numpy": lambda: PIXELS,
    "jax": lambda: jnp.asarray(PIXELS),
    "another library": Tensor,
    "a view": lambda: np.repeat(PIXELS, 2, axis=0)[::2],
    "pillow": lambda: Image.fromarray(PIXELS),
}


def decode(source, index):
    return PIPELINE.decode(source[index]["image"])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_has_its_pixels(form):
    image = FORMS[form]()
    for images in ([image], (image,), iter([image]), (image for _ in range(1))):
        source = InMemory(images, ())
        assert len(source) == 1
        for _ in range(2):
            np.testing.assert_array_equal(decode(source, 0), PIXELS)


def test_paths_and_open_files_have_their_pixels(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded().getvalue())
    with path.open("rb") as file:
        source = InMemory([path, str(path), np.str_(path), file, file], ())
        for index in range(5):
            np.testing.assert_array_equal(decode(source, index), PIXELS)
        assert file.tell() == 0
    found = InMemory(tmp_path.glob("*.png"), ())
    np.testing.assert_array_equal(decode(found, 0), PIXELS)
    assert found.describe(0) == str(path)
    names = InMemory(np.array([str(path)] * 2), ())
    np.testing.assert_array_equal(decode(names, 1), PIXELS)


@pytest.mark.parametrize("library", [np, jnp])
def test_a_batch_of_pixels_is_its_images(library):
    source = InMemory(library.stack([library.asarray(PIXELS)] * 3), ())
    assert len(source) == 3
    np.testing.assert_array_equal(decode(source, 2), PIXELS)


SINGLE = {
    "text": "a.png",
    "a path": pathlib.Path("a.png"),
    "bytes": b"\x89PNG",
    "bytearray": bytearray(9),
    "memoryview": memoryview(bytes(9)),
    "an open file": io.BytesIO(),
    "a Pillow image": Image.new("L", (3, 3)),
    "colour": PIXELS,
    "grey": PIXELS[..., 0],
    "jax": jnp.asarray(PIXELS),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_image_is_no_sequence(name):
    with pytest.raises(
        TypeError, match=r"expected a sequence of images; \[image\] for a single one"
    ):
        InMemory(SINGLE[name], ())


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (7, "expected a sequence of images, got int"),
        (None, "got NoneType"),
        ({"a.png": 1}, "got dict"),
        ({"a.png"}, "got set"),
        (PIXELS[None, None], r"expected a batch \(n, h, w, c\), got an array \(1, 1, 9, 7, 3\)"),
    ],
)
def test_what_has_no_order_is_no_sequence(images, reason):
    with pytest.raises(TypeError, match=reason):
        InMemory(images, ())


WRONG = {
    "floats": (PIXELS / 255, "expected uint8 pixels, got float64 .*; scale 0..1 by 255, and round"),
    "jax floats": (jnp.zeros((3, 3)), "expected uint8 pixels, got float32"),
    "truths": (PIXELS > 9, "expected uint8 pixels, got bool"),
    "int64": (PIXELS.astype(np.int64), "expected uint8 pixels, got int64"),
    "a row": (PIXELS[0, :, 0], r"expected uint8 pixels \(height, width, channels\), got \(7,\)"),
    "a batch": (PIXELS[None], r"got \(1, 9, 7, 3\)"),
    "nothing": (PIXELS[:0], r"got \(0, 7, 3\)"),
    "channels first": (PIXELS.transpose(2, 0, 1), r"expected uint8 \(height, width, 3\)"),
    "a number": (5, "expected a path, the bytes of a file, .* got int"),
    "a list": ([[1, 2]], "got list"),
    "none": (None, "got NoneType"),
    "text in a file": (io.StringIO("a"), "the file was opened as text; open it with 'rb'"),
    "a folder": (pathlib.Path("/"), "[Ii]s a directory|regular"),
    "no file": ("nowhere.png", "^no such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_is_refused_by_name(name):
    image, reason = WRONG[name]
    with pytest.raises(UnreadableError, match=reason):
        decode(InMemory([image], ()), 0)


def test_a_closed_file_is_an_error_and_no_crash():
    file = encoded()
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        decode(InMemory([file], ()), 0)
