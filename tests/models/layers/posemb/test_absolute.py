"""Position embeddings that are added to the tokens."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.posemb.absolute import Learned, SinCos2d

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
OF_JAX = ["nearest", "bilinear", "bicubic", "lanczos3"]
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


@pytest.mark.parametrize("name", [name for name in POSEMBS if POSEMBS[name].site == "tokens"])
def test_returns_the_embeddings_of_prefix_and_grid(name):
    module = POSEMBS[name](num_prefix=2)
    embedding, _ = jax.eval_shape(lambda: module.init_with_output(KEY, 3, 4, 8))
    assert jax.tree.map(np.shape, embedding) == ((2, 8), (3, 4, 8))


def test_learned_parameters_have_the_size_of_the_first_grid():
    params = nn.unbox(Learned(num_prefix=2).init(KEY, 3, 4, 8))["params"]
    assert jax.tree.map(np.shape, params) == {"prefix": (2, 8), "grid": (3, 4, 8)}


def test_learned_has_no_prefix_parameter_without_prefix_tokens():
    assert set(Learned(num_prefix=0).init(KEY, 3, 4, 8)["params"]) == {"grid"}


@pytest.mark.parametrize(("registers", "rows"), [(False, 2), (True, 5)])
def test_registers_have_rows_only_if_enabled(registers, rows):
    module = Learned(num_prefix=2, num_registers=3, registers=registers)
    params = nn.unbox(module.init(KEY, 3, 4, 8))["params"]
    assert params["prefix"].shape == (rows, 8)


def test_learned_returns_the_parameters_exactly_on_their_own_grid():
    embedding = Learned(num_prefix=2).apply(VARIABLES, 4, 6, 8)
    chex.assert_trees_all_equal(embedding, (PREFIX, GRID))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", OF_JAX)
def test_learned_is_resampled_by_jax_for_another_grid(interpolation, antialias):
    prefix, grid = Learned(2, interpolation=interpolation, antialias=antialias).apply(
        VARIABLES, 3, 5, 8
    )
    chex.assert_trees_all_equal(prefix, PREFIX)
    expected = jax.image.resize(GRID, (3, 5, 8), interpolation, antialias=antialias)
    chex.assert_trees_all_equal(grid, expected)


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
