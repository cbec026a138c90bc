"""Transforms of one image on the host, and normalization on the device."""

import dataclasses
import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data import transforms
from vit_jax.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
GRADIENT = (np.add.outer(np.arange(12), np.arange(16)) * 9).astype(np.uint8)[..., None]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


def record(image, label=3):
    return {"image": image, "label": label, "id": "set:train[7]"}


def test_decoding_gives_the_pixels_of_the_channels_asked_for():
    grey = GRADIENT[..., 0]
    for channels in (1, 3):
        out = transforms.Pipeline((), channels, 10)(record(png(grey)), RNG)
        assert out["image"].shape == (12, 16, channels)
        np.testing.assert_array_equal(out["image"], np.repeat(grey[..., None], channels, -1))
        assert out["label"] == np.int32(3)


@pytest.mark.parametrize("label", [-1, 10, 255])
def test_a_bad_label_is_refused_with_the_record_id(label):
    pipeline = transforms.Pipeline((), 1, 10)
    message = rf"^set:train\[7\]: expected a label from 0 to 9, got {label}$"
    with pytest.raises(DataError, match=message):
        pipeline(record(GRADIENT, label), RNG)


@pytest.mark.parametrize("content", [b"", b"not an image", png(GRADIENT[..., 0])[:45]])
def test_a_broken_image_is_refused_with_the_record_id(content):
    with pytest.raises(DataError, match=r"^set:train\[7\]: not an image that can be decoded"):
        transforms.Pipeline((), 1, 10)(record(content), RNG)


def test_resize_gives_height_and_width_in_that_order():
    out = transforms.Resize((6, 32), "bicubic")(GRADIENT, RNG)
    assert out.shape == (6, 32, 1)
    assert out.dtype == np.uint8


def test_resize_to_the_same_size_changes_nothing():
    assert transforms.Resize((12, 16), "bicubic")(GRADIENT, RNG) is GRADIENT


def test_resize_is_antialiased():
    stripes = np.zeros((8, 8, 1), np.uint8)
    stripes[:, ::2] = 200
    out = transforms.Resize((8, 2), "bilinear")(stripes, RNG)
    np.testing.assert_allclose(out, 100, atol=15)


def test_affine_of_nothing_changes_nothing():
    out = transforms.RandomAffine(0.0, 0.0, 0.0)(GRADIENT, RNG)
    np.testing.assert_array_equal(out, GRADIENT)


class Fixed(np.random.Generator):
    """Draws what it is told to."""

    def __init__(self, *draws):
        super().__init__(np.random.PCG64(0))
        self.draws = draws

    def uniform(self, low, high, size):
        return np.array(self.draws)


def test_affine_shifts_down_and_right_by_a_fraction():
    out = transforms.RandomAffine(0.0, 0.0, 0.25)(GRADIENT, Fixed(0, 0, 1, 1))
    np.testing.assert_array_equal(out[3:, 4:], GRADIENT[:-3, :-4])
    assert not out[:3].any()
    assert not out[:, :4].any()


def test_affine_rotates_about_the_centre():
    square = GRADIENT[:12, :12]
    out = transforms.RandomAffine(90.0, 0.0, 0.0)(square, Fixed(1, 0, 0, 0))
    np.testing.assert_allclose(out, np.rot90(square, -1), atol=1)


def test_affine_scales_up_about_the_centre():
    disc = np.zeros((16, 16, 1), np.uint8)
    disc[6:10, 6:10] = 255
    out = transforms.RandomAffine(0.0, 0.5, 0.0)(disc, Fixed(0, 1, 0, 0))
    assert out[5:11, 5:11].mean() > 180
    assert not out[:4].any()


def test_the_training_pipeline_is_random_and_the_evaluation_pipeline_is_not():
    data = config_lib.Data(
        channels=1, image_size=(12, 16), affine=config_lib.Affine(degrees=20.0, shift=0.2)
    )
    train, test = transforms.for_training(data, 10), transforms.for_evaluation(data, 10)
    draws = [train(record(GRADIENT), np.random.default_rng(i))["image"] for i in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    np.testing.assert_array_equal(test(record(GRADIENT), RNG)["image"], GRADIENT)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "interpolation",
            "cubic",
            "config.data.interpolation: unknown 'cubic'; did you mean 'bicu",
        ),
        ("channels", 2, "config.data.channels: expected 1 or 3, got 2"),
    ],
)
def test_a_wrong_setting_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        transforms.check(dataclasses.replace(config_lib.Data(), **{field: value}))


def test_normalize_scales_then_centres():
    images = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    out = transforms.normalize(images, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    np.testing.assert_allclose(out.reshape(-1), [-1, 0, 0.5], atol=1e-6)
