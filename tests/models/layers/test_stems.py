"""The stem: patches, cut and projected."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.stems import PatchEmbed


def random_params(rng, patch, channels, width):
    kernel = rng.normal(size=(*patch, channels, width)).astype(np.float32)
    return {"proj": {"kernel": kernel, "bias": rng.normal(size=width).astype(np.float32)}}


def test_equals_cutting_patches_by_hand_and_a_matrix_product():
    rng = np.random.default_rng(0)
    (height, width), patch = (6, 8), (3, 2)
    images = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    params = random_params(rng, patch, 3, 5)
    matrix = params["proj"]["kernel"].reshape(-1, 5)
    expected = np.zeros((2, height // 3, width // 2, 5), np.float32)
    for row in range(height // 3):
        for column in range(width // 2):
            cut = images[:, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
            expected[:, row, column] = cut.reshape(2, -1) @ matrix + params["proj"]["bias"]
    grid = PatchEmbed(patch, 5).apply({"params": params}, jnp.asarray(images))
    chex.assert_trees_all_close(grid, expected, rtol=1e-5, atol=1e-5)


def test_parameters_are_named_and_shaped_by_the_patch():
    images = jnp.zeros((1, 6, 8, 3))
    shapes = jax.eval_shape(PatchEmbed((3, 2), 5).init, jax.random.key(0), images)["params"]
    assert shapes["proj"]["kernel"].value.shape == (3, 2, 3, 5)
    assert shapes["proj"]["kernel"].names == (None, None, None, "embed")
    assert shapes["proj"]["bias"].shape == (5,)


@pytest.mark.parametrize("size", [(7, 8), (6, 9)])
def test_a_patch_that_does_not_divide_the_image_is_an_error(size):
    images = jnp.zeros((1, *size, 3))
    with pytest.raises(ValueError, match=r"not made of patches of \(3, 2\)"):
        PatchEmbed((3, 2), 5).init(jax.random.key(0), images)
