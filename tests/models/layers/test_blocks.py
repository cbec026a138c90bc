"""Transformer blocks: their order, LayerScale and stochastic depth."""

import math
from collections.abc import Callable
from functools import partial

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.blocks import BLOCKS, LayerScale, drop_path_rates
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


def only_attention(order, rate):
    """A block that adds 1 to each token, unless the branch is dropped."""
    return make(
        order, attention=jnp.ones_like, mlp=jnp.zeros_like, norm=lambda x: x, drop_rate=rate
    )


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
def test_drop_path_drops_whole_images_and_scales_the_others(order):
    rate = 0.25
    count = 512
    x = jnp.zeros((count, 3, 4))
    rngs = {"dropout": KEY}
    added = np.asarray(only_attention(order, rate).apply({}, x, GRID, train=True, rngs=rngs))
    chex.assert_trees_all_equal(added, np.broadcast_to(added[:, :1, :1], added.shape))
    kept = added[:, 0, 0] != 0
    chex.assert_trees_all_close(added[kept], np.full_like(added[kept], 1 / (1 - rate)), rtol=1e-6)
    assert abs(kept.mean() - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / count)


@pytest.mark.parametrize("order", BLOCKS)
def test_drop_path_does_nothing_in_evaluation(order):
    added = only_attention(order, 0.9).apply({}, jnp.zeros_like(X), GRID, train=False)
    chex.assert_trees_all_equal(added, np.ones_like(X))


@pytest.mark.parametrize("order", BLOCKS)
def test_the_two_branches_are_dropped_independently(order):
    block = make(order, jnp.ones_like, lambda x: 0 * x + 10, lambda x: x, drop_rate=0.5)
    x = jnp.zeros((64, 1, 1))
    output = block.apply({}, x, GRID, train=True, rngs={"dropout": KEY})
    assert set(np.unique(output)) == {0.0, 2.0, 20.0, 22.0}


def test_drop_path_needs_a_key():
    with pytest.raises(flax.errors.InvalidRngError):
        only_attention("pre", 0.5).apply({}, X, GRID, train=True)


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
