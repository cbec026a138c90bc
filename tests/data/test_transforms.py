"""Transforms of one image on the host, and normalization on the device."""

import dataclasses
import io
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data import transforms
from vit_jax.data.images import UnreadableError
from vit_jax.errors import ConfigError

RNG = np.random.default_rng(0)
GRADIENT = (np.add.outer(np.arange(12), np.arange(16)) * 9).astype(np.uint8)[..., None]


PIPELINE = transforms.for_evaluation(config_lib.Data(channels=1, fit="squash"))


def test_arrays_are_unchanged_and_files_are_decoded():
    assert PIPELINE.decode(GRADIENT) is GRADIENT
    file = io.BytesIO()
    Image.fromarray(GRADIENT[..., 0]).save(file, format="png")
    np.testing.assert_array_equal(PIPELINE.decode(file.getvalue()), GRADIENT)


@pytest.mark.parametrize(
    "image", [GRADIENT[..., 0], np.repeat(GRADIENT, 3, -1), GRADIENT.astype(np.float32)]
)
def test_arrays_of_another_dtype_or_shape_are_rejected(image):
    with pytest.raises(UnreadableError, match=r"expected uint8 \(height, width, 1\) by config"):
        PIPELINE.decode(image)


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


def test_an_affine_transform_with_zero_amounts_is_the_identity():
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


PHOTO = np.random.default_rng(0).integers(0, 256, (45, 70, 3)).astype(np.uint8)


@pytest.mark.parametrize("interpolation", transforms.FILTERS)
@pytest.mark.parametrize(
    ("shape", "size", "fraction", "whole"),
    [  # whole: height and width that torchvision and timm resize to before they cut
        ((45, 70), (16, 16), 0.875, (18, 28)),
        ((70, 45), (16, 16), 1.0, (24, 16)),
        ((45, 70), (12, 24), 1.0, (15, 24)),
        ((45, 70), (24, 12), 0.5, (48, 74)),
        ((30, 30), (45, 45), 0.9, (50, 50)),
    ],
)
def test_the_centre_crop_is_that_of_the_whole_resized_image(
    shape, size, fraction, whole, interpolation
):
    image = np.ascontiguousarray(np.resize(PHOTO, (*shape, 3)))
    out = transforms.CentreCrop(size, fraction, interpolation)(image, RNG)
    method = transforms.FILTERS[interpolation]
    resized = np.asarray(Image.fromarray(image).resize(whole[::-1], method))
    top, left = (round((w - s) / 2) for w, s in zip(whole, size, strict=True))
    expected = resized[top : top + size[0], left : left + size[1]].astype(int)
    if interpolation == "nearest":  # falls on either side of a pixel's edge
        assert np.mean(out == expected) > 0.8
    else:
        np.testing.assert_allclose(out, expected, atol=1)


def test_the_centre_crop_of_a_very_thin_image_needs_little_memory():
    thread = np.full((1, 5000, 3), 7, np.uint8)
    out = transforms.CentreCrop((224, 224), 0.875, "bicubic")(thread, RNG)
    np.testing.assert_array_equal(out, np.full((224, 224, 3), 7))


def cropped_whole(crop, image, rng):
    """Returns what a random crop gives if the whole image is resized, and then cut."""
    targets = [int(side / crop.fraction) for side in crop.size]
    sides = image.shape[:2]
    factor = max(target / side for target, side in zip(targets, sides, strict=True))
    whole = [max(int(side * factor + 1e-9), 1) for side in sides]
    resampling = transforms.FILTERS[crop.interpolation]
    resized = np.asarray(Image.fromarray(image).resize(whole[::-1], resampling))
    pads = [(min(crop.padding, side - 1),) * 2 for side in whole]
    padded = np.pad(resized, [*pads, (0, 0)], mode="reflect")
    spans = zip(padded.shape[:2], crop.size, strict=True)
    top, left = (int(rng.integers(side - part + 1)) for side, part in spans)
    return padded[top : top + crop.size[0], left : left + crop.size[1]]


@pytest.mark.parametrize("interpolation", transforms.FILTERS)
@pytest.mark.parametrize(("fraction", "padding"), [(1.0, 4), (0.875, 0), (0.5, 0)])
@pytest.mark.parametrize("shape", [(45, 70), (70, 45), (12, 12), (100, 9)])
def test_a_random_crop_of_ordinary_images_equals_resizing_then_cropping(
    shape, fraction, padding, interpolation
):
    image = np.random.default_rng(2).integers(0, 256, (*shape, 3)).astype(np.uint8)
    crop = transforms.RandomCrop((16, 16), fraction, interpolation, padding)
    for seed in range(5):
        out = crop(image, np.random.default_rng(seed))
        expected = cropped_whole(crop, image, np.random.default_rng(seed))
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("padding", [0, 4])
def test_a_random_crop_of_a_very_thin_image_is_nearly_the_same(padding):
    thread = (127 + 127 * np.sin(np.arange(3000) / 9)).astype(np.uint8)[None, :, None]
    image = np.repeat(np.repeat(thread, 3, 2), 2, 0)
    crop = transforms.RandomCrop((16, 16), 1.0, "bilinear", padding)
    for seed in range(5):
        out = crop(image, np.random.default_rng(seed)).astype(int)
        expected = cropped_whole(crop, image, np.random.default_rng(seed))
        np.testing.assert_allclose(out, expected, atol=1)


@pytest.mark.parametrize("shape", [(1, 60_000), (30_000, 2), (1, 20_000_000), (20_000_000, 1)])
@pytest.mark.parametrize("name", [*transforms.CROPS, "squash"])
def test_transforms_of_very_thin_images_need_little_memory(name, shape):
    data = config_lib.Data(image_size=(224, 224), interpolation="bicubic", flip=False)
    if name == "squash":
        data = dataclasses.replace(data, fit="squash", crop="fit")
    else:
        data = dataclasses.replace(data, crop=name)
    thread = np.full((*shape, 1), 7, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = transforms.for_training(dataclasses.replace(data, channels=1))(thread, RNG)
    np.testing.assert_array_equal(out, np.full((224, 224, 1), 7))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_squash_keeps_the_whole_image():
    image = np.zeros((8, 32, 1), np.uint8)
    image[:, :4] = 255
    out = transforms.Resize((8, 8), "bilinear")(image, RNG)
    assert out[:, 0].min() > 200
    assert not out[:, 2:].any()


def boxes(monkeypatch, shape, size, area, num=300):
    """Returns the parts that the random crop cuts out, as (left, top, right, bottom)."""
    seen = []
    rows, columns = np.indices(shape)
    image = np.stack([rows, columns // 256, columns % 256], axis=-1).astype(np.uint8)

    def note(part, size, interpolation, box=None):
        top, high, low = map(int, part[0, 0])
        left = 256 * high + low
        whole = (left, top, left + part.shape[1], top + part.shape[0])
        seen.append(whole if box is None else box)
        return part

    monkeypatch.setattr(transforms, "resize", note)
    crop = transforms.RandomResizedCrop(size, area, "bicubic")
    for i in range(num):
        crop(image, np.random.default_rng(i))
    return np.array(seen)


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_random_crops_have_the_configured_area_and_aspect_ratio(monkeypatch, size):
    left, top, right, bottom = boxes(monkeypatch, (200, 300), size, (0.1, 0.4)).T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 300
    assert bottom.max() <= 200
    area = (right - left) * (bottom - top) / (200 * 300)
    assert (area.min(), area.max()) == pytest.approx((0.1, 0.4), abs=0.02)
    shape = (right - left) / (bottom - top) / (size[1] / size[0])
    assert (shape.min(), shape.max()) == pytest.approx((3 / 4, 4 / 3), abs=0.05)
    assert np.ptp(left) > 100
    assert np.ptp(top) > 60


def test_a_random_crop_reads_no_pixels_outside_its_box(monkeypatch):
    shape = PHOTO.shape[:2]
    size = (16, 16)
    area = (0.2, 0.5)
    parts = boxes(monkeypatch, shape, size, area, num=5)
    monkeypatch.undo()
    crop = transforms.RandomResizedCrop(size, area, "bicubic")
    for i, part in enumerate(parts):
        whole = Image.fromarray(PHOTO).crop(tuple(part))
        expected = whole.resize(size, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(crop(PHOTO, np.random.default_rng(i)), np.asarray(expected))


def test_a_random_crop_that_never_fits_is_the_largest_centred_box(monkeypatch):
    parts = boxes(monkeypatch, (10, 1000), (8, 8), (1.0, 1.0), num=5)
    np.testing.assert_allclose(parts, [(495, 0, 505, 10)] * 5)


def test_flips_are_horizontal_with_probability_one_half():
    flip = transforms.RandomFlip()
    outs = [flip(PHOTO, np.random.default_rng(i)) for i in range(400)]
    mirrored = [np.array_equal(out, PHOTO[:, ::-1]) for out in outs]
    kept = [np.array_equal(out, PHOTO) for out in outs]
    assert sum(mirrored) + sum(kept) == 400
    assert 160 < sum(mirrored) < 240


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_every_transform_takes_any_number_of_channels(channels):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, channels)).astype(np.uint8)
    data = config_lib.Data(
        channels=channels,
        image_size=(12, 16),
        crop="inception",
        crop_area=(0.3, 1.0),
        flip=True,
        affine=config_lib.Affine(degrees=20.0),
    )
    out = transforms.for_training(data)(image, np.random.default_rng(3))
    assert out.shape == (12, 16, channels)
    # A channel is treated as if it were alone.
    alone = transforms.for_training(dataclasses.replace(data, channels=1))
    np.testing.assert_array_equal(out[..., :1], alone(image[..., :1], np.random.default_rng(3)))


def test_the_training_pipeline_is_random_and_the_evaluation_pipeline_is_not():
    data = config_lib.Data(
        channels=1, image_size=(12, 16), affine=config_lib.Affine(degrees=20.0, shift=0.2)
    )
    train, test = transforms.for_training(data), transforms.for_evaluation(data)
    draws = [train(GRADIENT, np.random.default_rng(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    np.testing.assert_array_equal(test(GRADIENT, RNG), GRADIENT)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "interpolation",
            "cubic",
            "config.data.interpolation: unknown 'cubic'; did you mean 'bicu",
        ),
        ("fit", "corp", "config.data.fit: unknown 'corp'; did you mean 'crop'?"),
        ("crop_area", (0.5, 0.2), "config.data.crop_area: expected \\(minimum, maximum\\), got"),
        ("background", (0, 0), "config.data.background: expected red, green and blue"),
        ("channels", 6, "config.data.channels: expected 1 to 4 channels for image files, got 6"),
    ],
)
def test_invalid_settings_are_rejected(field, value, message):
    with pytest.raises(ConfigError, match=message):
        transforms.check(dataclasses.replace(config_lib.Data(root="photos"), **{field: value}))


def test_normalize_scales_then_centres():
    images = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    out = transforms.normalize(images, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    np.testing.assert_allclose(out.reshape(-1), [-1, 0, 0.5], atol=1e-6)
