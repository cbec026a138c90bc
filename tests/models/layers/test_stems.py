"""The stems: patches of the image, or of what a ResNet makes of it, cut and projected."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.resnet import ResNet
from vit_jax.models.layers.stems import STEMS, HybridEmbed, PatchEmbed

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default


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


def test_a_hybrid_projects_patches_of_the_resnets_map():
    fields = {"resnet_layers": (1,), "resnet_width": 0.5, "weight_standardization": "variance"}
    module = HybridEmbed((2, 1), 5, group_norm_eps=0.1, **fields)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 3)), jnp.float32)
    rng, shapes = np.random.default_rng(1), nn.unbox(jax.eval_shape(module.init, KEY, images))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    params["params"]["resnet"]["conv_root"]["kernel"] *= 1e-4  # where the two forms differ
    resnet = ResNet((1,), 32, "variance", 0.1)

    @jax.jit
    def both(params):
        own = {name: {"params": value} for name, value in params["params"].items()}
        cells = resnet.apply(own["resnet"], images)
        patches = PatchEmbed((2, 1), 5).apply({"params": {"proj": params["params"]["proj"]}}, cells)
        return module.apply(params, images), patches

    grid, expected = both(params)
    assert grid.shape == (2, 1, 3, 5)
    chex.assert_trees_all_close(grid, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers", "stride"),
    [
        ("patch", (3, 4), (2, 3)),
        ("resnet", (), (8, 12)),
        ("resnet", (3,), (8, 12)),
        ("resnet", (3, 4), (16, 24)),
        ("resnet", (3, 4, 9), (32, 48)),
        ("resnet", (2, 2, 2, 2), (64, 96)),
    ],
)
def test_the_stride_is_a_cell_in_pixels(name, layers, stride):
    assert STEMS[name]((2, 3), 5, resnet_layers=layers).stride == stride


@pytest.mark.parametrize("size", [(8, 18), (12, 12)])
def test_a_stride_that_does_not_divide_the_image_is_an_error(size):
    module = HybridEmbed((2, 3), 5, resnet_width=0.5)
    with pytest.raises(ValueError, match=r"not made of patches of \(8, 12\)"):
        jax.eval_shape(module.init, KEY, jnp.zeros((1, *size, 3)))
