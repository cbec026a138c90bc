"""Transformer blocks: their order, LayerScale and stochastic depth."""

import math
from collections.abc import Callable
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.blocks import (
    BLOCKS,
    LayerScale,
    drop_path_factors,
    drop_path_rates,
)
from vit_jax.models.layers.grid import Grid

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
GRID = Grid(1, 3)


class Part(nn.Module):
    """A part of a block that applies any function, to test the order of the parts."""

    function: Callable

    def __call__(self, x, grid=None, *, train=False):
        return self.function(x)


def double(x):
    return 2 * x


def add_three(x):
    return x + 3


def square(x):
    return x**2


def make(order, attention=double, mlp=add_three, norm=square, **fields):
    parts = {"attention": attention, "mlp": mlp, "norm": norm}
    parts = {name: partial(Part, function) for name, function in parts.items()}
    return BLOCKS[order](**parts, **fields)


def test_pre_norm_block_normalizes_what_enters_a_branch():
    x = X + double(square(X))
    expected = x + add_three(square(x))
    chex.assert_trees_all_close(make("pre").apply({}, X, GRID, train=False), expected, rtol=1e-6)


def test_post_norm_block_normalizes_the_sum():
    x = square(X + double(X))
    expected = square(x + add_three(x))
    chex.assert_trees_all_close(make("post").apply({}, X, GRID, train=False), expected, rtol=1e-6)


def test_residual_post_norm_block_normalizes_what_leaves_a_branch():
    x = X + square(double(X))
    expected = x + square(add_three(x))
    output = make("res_post").apply({}, X, GRID, train=False)
    chex.assert_trees_all_close(output, expected, rtol=1e-6)


@pytest.mark.parametrize("order", BLOCKS)
def test_each_branch_of_each_image_has_its_factor(order):
    factors = jnp.asarray([[0, 2, 1, 0.5], [3, 1, 0, 0]])
    parts = {"attention": jnp.ones_like, "mlp": lambda x: 0 * x + 10, "norm": lambda x: x}
    output = make(order, **parts, factors=factors).apply({}, jnp.zeros((4, 3, 2)), GRID, train=True)
    expected = np.asarray(factors[0] + 10 * factors[1])
    chex.assert_trees_all_close(output, np.broadcast_to(expected[:, None, None], (4, 3, 2)))


def test_drop_path_drops_images_at_the_rate_of_the_block_and_scales_the_others():
    rates, count = (0.0, 0.25, 0.5), 4096
    factors = np.asarray(drop_path_factors(KEY, rates, count))
    assert factors.shape == (3, 2, count)
    for row, rate in zip(factors, rates, strict=True):
        kept = row != 0
        chex.assert_trees_all_close(row[kept], np.full_like(row[kept], 1 / (1 - rate)), rtol=1e-6)
        error = 4 * math.sqrt(rate * (1 - rate) / count)
        assert np.all(abs(kept.mean(axis=1) - (1 - rate)) <= error)
    first, second = factors[2] != 0
    assert abs(np.mean(first & second) - 0.25) < 4 * math.sqrt(3 / 16 / count)  # independent


@pytest.mark.parametrize(
    ("schedule", "depth", "expected"),
    [
        ("linear", 3, [0, 0.1, 0.2]),
        ("linear", 1, [0]),
        ("constant", 3, [0.2, 0.2, 0.2]),
        ("constant", 1, [0.2]),
    ],
)
def test_rates_by_block(schedule, depth, expected):
    assert drop_path_rates(0.2, schedule, depth) == pytest.approx(expected)


@pytest.mark.parametrize("order", BLOCKS)
def test_layer_scale_starts_at_its_initial_value(order):
    params = make(order, layer_scale=1e-4).init(KEY, X, GRID, train=False)["params"]
    scale = {"scale": np.full(4, 1e-4, np.float32)}
    chex.assert_trees_all_equal(params, {"scale1": scale, "scale2": scale})


@pytest.mark.parametrize("order", BLOCKS)
def test_without_layer_scale_a_block_has_no_parameters_of_its_own(order):
    assert not make(order).init(KEY, X, GRID, train=False)


def test_layer_scale_multiplies_each_channel():
    scale = np.array([1, 2, 3, 4], np.float32)
    output = LayerScale(0.5).apply({"params": {"scale": scale}}, X)
    chex.assert_trees_all_equal(output, X * scale)


def test_each_branch_has_its_own_layer_scale():
    params = {name: {"scale": np.full(4, value)} for name, value in [("scale1", 5), ("scale2", 7)]}
    output = make("pre", layer_scale=1.0).apply({"params": params}, X, GRID, train=False)
    x = X + 5 * double(square(X))
    chex.assert_trees_all_close(output, x + 7 * add_three(square(x)), rtol=1e-6)
