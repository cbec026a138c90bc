"""Resampling of grids of vectors to another height and width."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from vit_jax.models.layers.posemb import POSEMB_INTERPOLATIONS, resample

OF_JAX = ["nearest", "bilinear", "bicubic", "lanczos3"]
OTHERS = [name for name in POSEMB_INTERPOLATIONS if name not in OF_JAX]
GRIDS = [(3, 5), (2, 3), (7, 6), (4, 9), (8, 12), (1, 13)]  # from 4 x 6
RNG = np.random.default_rng(0)
GRID = jnp.asarray(RNG.normal(size=(4, 6, 8)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(5, 7, 8)), jnp.float32)


@pytest.mark.parametrize("shape", GRIDS)
def test_spline_is_scipys_zoom_of_order_1(shape):
    # As in Google's code, zoom gets the ratio of the sides.
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
    near = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]  # of 4 positions, the second at 1/4
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


@pytest.mark.parametrize("interpolation", POSEMB_INTERPOLATIONS)
def test_a_resampled_grid_keeps_its_dtype_and_passes_gradients(interpolation):
    def mean_square(grid):
        return jnp.mean(jnp.square(resample(grid, 9, 11, interpolation)))

    gradient = jax.jit(jax.grad(mean_square))(TABLE)
    assert (np.abs(gradient) > 0).mean() > 0.99
    assert resample(TABLE, 9, 11, interpolation).dtype == jnp.float32
    assert resample(TABLE.astype(jnp.bfloat16), 9, 11, interpolation).dtype == jnp.bfloat16


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", POSEMB_INTERPOLATIONS)
def test_a_constant_stays_constant(interpolation, antialias):
    constant = jnp.full((5, 7, 2), 3.0)
    for height, width in [(3, 5), (9, 7)]:
        resized = resample(constant, height, width, interpolation, antialias)
        expected = np.full((height, width, 2), 3.0, np.float32)
        chex.assert_trees_all_close(resized, expected, rtol=1e-6)


@pytest.mark.parametrize("interpolation", OTHERS)
def test_antialias_is_for_the_methods_of_jax(interpolation):
    resized = [resample(TABLE, 3, 5, interpolation, antialias) for antialias in (True, False)]
    chex.assert_trees_all_equal(*resized)


def geometric_offsets(old, new):
    """Offsets 1, 1 + r, 1 + r + r^2 ... with the largest ratio r within the new table."""
    half, new_half = old // 2, new // 2
    ratios = np.linspace(1.01, 1.5, 49_001)
    spans = sum(ratios**i for i in range(half))
    ratio = ratios[spans <= new_half][-1] if (spans <= new_half).any() else ratios[0]
    steps = np.cumsum(ratio ** np.arange(half))
    return np.concatenate([-steps[::-1], [0], steps])


@pytest.mark.parametrize("size", [(9, 11), (13, 9), (15, 13)])
def test_geometric_is_linear_between_offsets_that_grow_by_a_ratio(size):
    expected = np.float64(TABLE)
    for axis in (0, 1):
        old = geometric_offsets(TABLE.shape[axis], size[axis])
        new = np.clip(np.arange(size[axis]) - size[axis] // 2, old[0], old[-1])
        expected = np.apply_along_axis(lambda v: np.interp(new, old, v), axis, expected)  # noqa: B023
    resized = resample(TABLE, *size, "geometric")
    chex.assert_trees_all_close(resized, np.float32(expected), rtol=1e-3, atol=1e-3)


def test_geometric_keeps_the_middle_where_a_table_shrinks():
    resized = resample(TABLE, 3, 3, "geometric")
    chex.assert_trees_all_equal(resized[1, 1], TABLE[2, 3])


def test_geometric_spreads_a_single_offset():
    resized = resample(TABLE[:1, :1], 3, 5, "geometric")
    chex.assert_trees_all_equal(resized, jnp.broadcast_to(TABLE[0, 0], (3, 5, 8)))
