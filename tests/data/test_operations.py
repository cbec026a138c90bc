"""Operations against golden pixels, which timm 1.0.31 made with Pillow, and at the identity."""

import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.operations import OPERATIONS, FillOptions, cutout, from_bands, to_bands

Y, X = np.mgrid[:24, :32]
IMAGE = np.stack([X * 8 % 256, (Y * 10 + X) % 256, ((X - 16) ** 2 + (Y - 12) ** 2) % 256], -1)
IMAGE = IMAGE.astype(np.uint8)
FILL = (10, 20, 30)

# Operation, strength, interpolation, and the CRC-32 of what timm makes of the image.
GOLDEN = [
    ("autocontrast", 0.0, "NEAREST", 4192251315),
    ("equalize", 0.0, "NEAREST", 2618931068),
    ("invert", 0.0, "NEAREST", 693458025),
    ("desaturate", 0.0, "NEAREST", 2352271268),
    ("rotate", 25.0, "NEAREST", 326134172),
    ("rotate", -40.0, "BICUBIC", 904037492),
    ("posterize", 3.0, "NEAREST", 3525858037),
    ("posterize", 8.0, "NEAREST", 526726238),
    ("solarize", 100.0, "NEAREST", 2358669920),
    ("solarize_add", 70.0, "NEAREST", 167860230),
    ("color", 1.7, "NEAREST", 1779609459),
    ("contrast", 0.4, "NEAREST", 286453523),
    ("brightness", 1.5, "NEAREST", 1654326042),
    ("sharpness", 1.9, "NEAREST", 350799686),
    ("shear_x", 0.3, "BILINEAR", 2238837365),
    ("shear_y", -0.2, "BICUBIC", 1420798451),
    ("translate_x", 5.0, "NEAREST", 258739872),
    ("translate_y", -7.0, "BILINEAR", 2115444800),
    ("translate_x_fraction", 0.3, "BILINEAR", 498520727),
    ("translate_y_fraction", -0.2, "NEAREST", 3639406582),
    ("blur", 1.2, "NEAREST", 3730854112),
]
# The strength at which each changes nothing.
IDENTITY = {
    "identity": 5.0,
    "rotate": 0.0,
    "posterize": 8.0,
    "solarize": 256.0,
    "solarize_add": 0.0,
    "color": 1.0,
    "contrast": 1.0,
    "brightness": 1.0,
    "sharpness": 1.0,
    "blur": 0.0,
    "shear_x": 0.0,
    "shear_y": 0.0,
    "translate_x": 0.0,
    "translate_y": 0.0,
    "translate_x_fraction": 0.0,
    "translate_y_fraction": 0.0,
}


def apply(name, image, strength, resampling="NEAREST"):
    options = FillOptions(FILL[: image.shape[-1]], Image.Resampling[resampling])
    return from_bands(OPERATIONS[name](to_bands(image), strength, options))


@pytest.mark.parametrize(("name", "strength", "resampling", "crc"), GOLDEN)
def test_pixels_equal_those_of_timm(name, strength, resampling, crc):
    found = apply(name, IMAGE, strength, resampling)
    assert (found.shape, found.dtype) == (IMAGE.shape, np.uint8)
    assert zlib.crc32(found.tobytes()) == crc


def test_every_operation_has_golden_pixels():
    assert {name for name, *_ in GOLDEN} | {"identity"} == set(OPERATIONS)


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_strengths_change_nothing(name):
    np.testing.assert_array_equal(apply(name, IMAGE, IDENTITY[name]), IMAGE)


@pytest.mark.parametrize("name", OPERATIONS)
def test_channels_are_processed_like_separate_grey_images(name):
    if name == "color" or name == "desaturate":  # which see all channels of a colour image
        grey = IMAGE[..., :1]
        np.testing.assert_array_equal(apply(name, grey, 0.3), grey)
        return
    strength = 0.3 if name not in ("posterize", "solarize", "solarize_add") else 5.0
    five = np.concatenate([IMAGE, IMAGE[..., :2]], axis=-1)
    found = from_bands(OPERATIONS[name](to_bands(five), strength, FillOptions((7,) * 5)))
    for i in range(5):
        alone = from_bands(
            OPERATIONS[name](to_bands(five[..., i : i + 1]), strength, FillOptions((7,)))
        )
        np.testing.assert_array_equal(found[..., i : i + 1], alone)


def test_pixels_from_outside_have_the_fill_value():
    moved = apply("translate_x", IMAGE, 5.0)
    np.testing.assert_array_equal(moved[:, :27], IMAGE[:, 5:])
    np.testing.assert_array_equal(moved[:, 27:], np.broadcast_to(FILL, (24, 5, 3)))


@pytest.mark.parametrize("centre", [(12, 16), (0, 0), (23, 31)])
def test_cutout_fills_a_square_clipped_to_the_image(centre):
    found = from_bands(cutout(to_bands(IMAGE), 4, centre, FillOptions(FILL)))
    row, column = centre
    inside = (abs(Y - row + 0.5) < 4) & (abs(X - column + 0.5) < 4)
    expected = np.where(inside[..., None], np.asarray(FILL, np.uint8), IMAGE)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        from_bands(cutout(to_bands(IMAGE), 0, centre, FillOptions(FILL))), IMAGE
    )
