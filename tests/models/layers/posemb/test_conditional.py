"""Conditional position encoding."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb.conditional import Conditional

KEY = jax.random.key(0, impl="unsafe_rbg")
GRID = Grid(3, 4, num_prefix=2)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 14, 5)), jnp.float32)
PARAMS = {
    "conv": {
        "kernel": jnp.asarray(RNG.normal(size=(3, 3, 1, 5)), jnp.float32),
        "bias": jnp.asarray(RNG.normal(size=5), jnp.float32),
    }
}


def apply(x, grid=GRID, params=PARAMS):
    return np.asarray(Conditional().apply({"params": params}, x, grid))


def test_equals_a_depthwise_convolution():
    padded = np.pad(np.asarray(X)[:, 2:].reshape(2, 3, 4, 5), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.array(X)
    for row, column in np.ndindex(3, 4):
        neighbourhood = padded[:, row : row + 3, column : column + 3]
        sums = (neighbourhood * np.asarray(PARAMS["conv"]["kernel"])[:, :, 0]).sum((1, 2))
        expected[:, 2 + 4 * row + column] += sums + PARAMS["conv"]["bias"]
    chex.assert_trees_all_close(apply(X), expected, rtol=1e-5, atol=1e-5)


def test_prefix_tokens_are_unchanged():
    chex.assert_trees_all_equal(apply(X)[:, :2], np.asarray(X[:, :2]))


def test_the_zero_padding_distinguishes_positions():
    output = apply(jnp.ones((1, 12, 5)), Grid(3, 4))[0, :, 0].reshape(3, 4)
    assert len(np.unique(np.round(output, 5))) == 9  # corners, edges and the inside
    assert output[1, 1] == output[1, 2]


def test_parameters_have_these_names_and_shapes():
    params = nn.unbox(jax.eval_shape(lambda: Conditional().init(KEY, X, GRID)))["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes == {"conv": {"kernel": (3, 3, 1, 5), "bias": (5,)}}
