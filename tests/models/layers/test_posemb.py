"""Position embeddings, on their own grid and on others."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from vit_jax.models.layers.posemb import INTERPOLATIONS, POSEMBS, Learned, SinCos2d, resample

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
OF_JAX = ["nearest", "bilinear", "bicubic", "lanczos3"]
GRIDS = [(3, 5), (2, 3), (7, 6), (4, 9), (8, 12), (1, 13)]  # from 4 x 6
RNG = np.random.default_rng(0)
PREFIX = jnp.asarray(RNG.normal(size=(2, 8)), jnp.float32)
GRID = jnp.asarray(RNG.normal(size=(4, 6, 8)), jnp.float32)
VARIABLES = {"params": {"prefix": PREFIX, "grid": GRID}}


def sincos(height, width, dim):
    """Sines and cosines of the column, then of the row (MoCo v3, `build_2d_sincos_...`)."""
    quarter = dim // 4
    grid = np.zeros((height, width, dim))
    for row, column, i in np.ndindex(height, width, quarter):
        rate = 10_000 ** -(i / (quarter - 1))
        waves = [f(at * rate) for at in (column, row) for f in (np.sin, np.cos)]
        grid[row, column, i::quarter] = waves
    return grid.astype(np.float32)


@pytest.mark.parametrize("name", POSEMBS)
def test_gives_the_prefix_and_the_grid_apart(name):
    module = POSEMBS[name](num_prefix=2)
    embedding, _ = jax.eval_shape(lambda: module.init_with_output(KEY, 3, 4, 8))
    assert jax.tree.map(np.shape, embedding) == ((2, 8), (3, 4, 8))


def test_learned_parameters_have_the_size_of_the_first_grid():
    params = nn.unbox(Learned(num_prefix=2).init(KEY, 3, 4, 8))["params"]
    assert jax.tree.map(np.shape, params) == {"prefix": (2, 8), "grid": (3, 4, 8)}


def test_learned_has_no_prefix_parameter_without_prefix_tokens():
    assert set(Learned(num_prefix=0).init(KEY, 3, 4, 8)["params"]) == {"grid"}


def test_learned_returns_the_parameters_exactly_on_their_own_grid():
    embedding = Learned(num_prefix=2).apply(VARIABLES, 4, 6, 8)
    chex.assert_trees_all_equal(embedding, (PREFIX, GRID))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", OF_JAX)
def test_learned_is_resampled_by_jax_for_another_grid(interpolation, antialias):
    prefix, grid = Learned(2, interpolation, antialias).apply(VARIABLES, 3, 5, 8)
    chex.assert_trees_all_equal(prefix, PREFIX)
    expected = jax.image.resize(GRID, (3, 5, 8), interpolation, antialias=antialias)
    chex.assert_trees_all_equal(grid, expected)


@pytest.mark.parametrize("shape", GRIDS)
def test_spline_is_scipys_zoom_of_order_1(shape):
    # As Google's code calls it: by the ratio of the sides.
    zoom = (shape[0] / 4, shape[1] / 6, 1)
    expected = scipy.ndimage.zoom(np.float64(GRID), zoom, order=1)
    assert expected.shape == (*shape, 8)
    resized = resample(GRID, *shape, "spline")
    chex.assert_trees_all_close(resized, np.float32(expected), rtol=1e-6, atol=1e-6)


def test_spline_keeps_the_corners_and_is_linear_between():
    row = jnp.asarray([0.0, 4.0, 2.0])[None, :, None]
    resized = resample(row, 1, 5, "spline")[0, :, 0]
    chex.assert_trees_all_equal(resized, np.float32([0, 2, 4, 3, 2]))


def test_bicubic_torch_has_keys_weights_and_repeats_the_edge():
    resized = resample(jnp.eye(4)[None], 1, 8, "bicubic_torch")[0]
    near = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]  # of 4 places, the second at 1/4
    assert (resized[3] == np.float32(near)).all()
    assert (resized[4] == np.float32(near[::-1])).all()
    edge = [near[3] + near[2], near[1], near[0], 0]
    assert (resized[2] == np.float32(edge)).all()


@pytest.mark.parity
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("shape", GRIDS)
def test_bicubic_is_that_of_torch(shape, antialias):
    import torch

    name = "bicubic" if antialias else "bicubic_torch"
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(GRID)).permute(2, 0, 1)[None],
        size=shape,
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    resized = resample(GRID, *shape, name, antialias)
    chex.assert_trees_all_close(resized, expected[0].permute(1, 2, 0).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_resampled_grid_keeps_its_dtype_and_passes_gradients(interpolation):
    def mean_square(grid):
        return jnp.mean(jnp.square(resample(grid, 8, 9, interpolation)))

    gradient = jax.jit(jax.grad(mean_square))(GRID)
    assert (np.abs(gradient) > 0).mean() > 0.99
    assert resample(GRID, 8, 9, interpolation).dtype == jnp.float32
    assert resample(GRID.astype(jnp.bfloat16), 8, 9, interpolation).dtype == jnp.bfloat16


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_constant_stays_constant(interpolation, antialias):
    constant = jnp.full((4, 6, 2), 3.0)
    for height, width in [(2, 3), (7, 6)]:
        resized = resample(constant, height, width, interpolation, antialias)
        expected = np.full((height, width, 2), 3.0, np.float32)
        chex.assert_trees_all_close(resized, expected, rtol=1e-6)


@pytest.mark.parametrize("interpolation", [name for name in INTERPOLATIONS if name not in OF_JAX])
def test_antialias_is_for_the_methods_of_jax(interpolation):
    resized = [resample(GRID, 2, 3, interpolation, antialias) for antialias in (True, False)]
    chex.assert_trees_all_equal(*resized)


def test_antialias_matters_only_when_shrinking():
    smooth, sharp = Learned(2), Learned(2, antialias=False)
    shrunk = [module.apply(VARIABLES, 2, 3, 8)[1] for module in (smooth, sharp)]
    grown = [module.apply(VARIABLES, 5, 7, 8)[1] for module in (smooth, sharp)]
    assert not np.allclose(*shrunk, atol=1e-3)
    chex.assert_trees_all_close(*grown, rtol=1e-6, atol=1e-6)


def test_sincos2d_equals_its_formula():
    prefix, grid = SinCos2d(num_prefix=1).apply({}, 3, 5, 16)
    chex.assert_trees_all_equal(prefix, np.zeros((1, 16), np.float32))
    chex.assert_trees_all_close(grid, sincos(3, 5, 16), rtol=1e-6, atol=1e-6)


def test_sincos2d_has_no_parameters():
    assert not SinCos2d(num_prefix=1).init(KEY, 3, 5, 16)
