"""Rotary position embeddings: products depend on the difference of the coordinates."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.posemb.rotary import AxialRotary, MixedRotary, rotate

KEY = jax.random.key(0, impl="unsafe_rbg")
ROTARIES = {name: entry for name, entry in POSEMBS.items() if entry.site == "rotary"}
COORDS = Grid(3, 4).coords
RNG = np.random.default_rng(0)
Q, K = (jnp.asarray(RNG.normal(size=(2, 12, 2, 8)), jnp.float32) for _ in range(2))


@functools.cache
def make(name):
    module = ROTARIES[name](num_heads=2, head_dim=8)
    variables = nn.unbox(module.init(KEY, COORDS))
    return lambda coords: module.apply(variables, coords)


def products(angles, q=Q, k=K):
    return jnp.einsum("bnhc,bmhc->bhnm", rotate(q, angles), rotate(k, angles))


@pytest.mark.parametrize("name", ROTARIES)
def test_products_are_invariant_to_a_shift_of_all_tokens(name):
    angles = make(name)
    expected = products(angles(COORDS))
    moved = products(angles(COORDS + np.array([5.0, -2.5])))
    chex.assert_trees_all_close(moved, expected, atol=1e-4)


@pytest.mark.parametrize("name", ROTARIES)
@pytest.mark.parametrize("axis", [0, 1])
def test_products_change_with_the_difference_of_rows_and_of_columns(name, axis):
    angles = make(name)
    coords = COORDS.copy()
    coords[0, axis] += 3
    changed = np.abs(products(angles(coords)) - products(angles(COORDS)))
    assert changed[:, :, 0, 1:].max() > 0.1 and changed[:, :, 1:, 1:].max() == 0


@pytest.mark.parametrize("name", ROTARIES)
def test_lengths_and_the_first_token_are_unchanged(name):
    rotated = rotate(Q, make(name)(COORDS))
    chex.assert_trees_all_close((rotated**2).sum(-1), (Q**2).sum(-1), rtol=1e-5)
    chex.assert_trees_all_equal(rotated[:, 0], Q[:, 0])


def test_prefix_tokens_and_what_comes_after_the_grid_are_not_rotated():
    coords = Grid(2, 3, num_prefix=2).coords
    assert coords.shape == (8, 2) and not coords[:3].any() and (coords[-1] == [1, 2]).all()
    rotated = rotate(Q, make("rope_mixed")(coords))
    for kept in (0, 1, 2, 8, 11):
        chex.assert_trees_all_equal(rotated[:, kept], Q[:, kept])
    assert not np.allclose(rotated[:, 3:8], Q[:, 3:8])


def test_axial_angles_are_those_of_the_paper():
    # Heo et al. 2024, eq. 9 and 10: theta_t = 100^(-t / (c / 4)), for columns, then for rows.
    angles = AxialRotary(num_heads=1, head_dim=8).apply({}, np.array([[2.0, 3.0]]))
    expected = np.array([[[3.0, 3.0 * 0.1, 2.0, 2.0 * 0.1]]], np.float32)
    chex.assert_trees_all_close(angles, expected, rtol=1e-6)


def test_rotate_rotates_pairs_of_adjacent_channels():
    x = jnp.asarray([1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
    rotated = rotate(x, jnp.asarray([np.pi / 2, np.pi / 6]).reshape(1, 1, 2))
    expected = np.array([0, 1, -2 * 0.5, 2 * np.sqrt(3) / 2]).reshape(1, 1, 1, 4)
    chex.assert_trees_all_close(rotated, np.float32(expected), atol=1e-6)


def test_mixed_frequencies_are_learned_per_head_and_start_orthogonal():
    module = MixedRotary(num_heads=3, head_dim=16)
    frequencies = nn.unbox(module.init(KEY, COORDS))["params"]["frequencies"]
    chex.assert_shape(frequencies, (2, 3, 8))
    first, second = frequencies[..., :4], frequencies[..., 4:]
    chex.assert_trees_all_close((first * second).sum(0), np.zeros((3, 4), np.float32), atol=1e-6)
    sizes = 10.0 ** -(np.arange(4) / 4)
    chex.assert_trees_all_close((first**2).sum(0), np.float32(np.tile(sizes**2, (3, 1))), rtol=1e-5)
    assert len(np.unique(np.round(frequencies[0, :, 0], 4))) == 3
