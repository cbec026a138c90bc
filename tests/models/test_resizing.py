"""Kernels for other channels and patches: the same outputs where possible, otherwise timm's."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.posemb import resample
from vit_jax.models.resizing import adapt_channels, resize_patch

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_a_grey_image_gives_the_output_of_the_same_image_in_rgb():
    kernel, grey = normal(4, 4, 3, 5), normal(4, 4, 1)
    expected = np.einsum("pqc,pqcd->d", np.repeat(grey, 3, axis=2), kernel)
    found = np.einsum("pqc,pqcd->d", grey, adapt_channels(kernel, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(("have", "want"), [(3, 4), (3, 2), (1, 3), (3, 6), (4, 3)])
def test_channels_are_repeated_in_order_and_scaled(have, want):
    kernel = normal(2, 2, have, 5)
    found = np.asarray(adapt_channels(kernel, want))
    for i in range(want):
        np.testing.assert_allclose(found[:, :, i], kernel[:, :, i % have] * have / want, rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((2, 3), (5, 4)), ((14, 14), (16, 16))])
def test_a_patch_that_grows_gives_the_same_products(old, new):
    kernel = normal(*old, 3, 5)
    patch = normal(*old, 3)
    found = np.einsum("pqc,pqcd->d", resample(patch, *new), resize_patch(kernel, new))
    expected = np.einsum("pqc,pqcd->d", patch, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


# Outputs of timm 1.0.31's `resample_patch_embed` for the sines of 0 to 15.
TIMM_OUTPUTS = {
    (2, 2): [[-0.8613319, 1.1492826], [1.0870353, -0.1152732]],
    (2, 6): [
        [-0.37718335, -0.26180077, -0.04328999, 0.2312759, 0.3449133, 0.3663636],
        [0.20405646, 0.3216429, 0.39929423, 0.23510846, -0.04116059, -0.2405701],
    ],
}


@pytest.mark.parametrize("patch", TIMM_OUTPUTS)
def test_a_patch_is_resized_as_in_timm(patch):
    kernel = jnp.sin(jnp.arange(16.0)).reshape(4, 4, 1, 1)
    np.testing.assert_allclose(
        resize_patch(kernel, patch)[:, :, 0, 0], TIMM_OUTPUTS[patch], atol=1e-5
    )
