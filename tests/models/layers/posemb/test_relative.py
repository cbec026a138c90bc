"""Relative position biases of the attention scores."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.posemb import POSEMBS, resample
from vit_jax.models.layers.posemb.relative import LogSpacedBias, RelativeBias

KEY = jax.random.key(0, impl="unsafe_rbg")
BIASES = {name: entry for name, entry in POSEMBS.items() if entry.site == "bias"}
RNG = np.random.default_rng(0)
TABLE = jnp.asarray(RNG.normal(size=(5, 7, 2)), jnp.float32)  # of a grid of 3 x 4
PREFIX = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)


def bias_of(module, params, *grid):
    return np.asarray(module.apply({"params": params}, *grid))


def random_params(module, *grid):
    shapes = nn.unbox(jax.eval_shape(lambda: module.init(KEY, *grid)))["params"]
    return jax.tree.map(
        lambda leaf: jnp.asarray(RNG.normal(0, 0.5, leaf.shape), jnp.float32), shapes
    )


def test_the_bias_is_the_entry_of_the_offset_of_query_and_key():
    bias = bias_of(RelativeBias(2), {"table": TABLE}, 3, 4, 0)
    for i, j, k, m in np.ndindex(3, 4, 3, 4):
        expected = TABLE[i - k + 2, j - m + 3]
        assert (bias[:, 4 * i + j, 4 * k + m] == expected).all()


@pytest.mark.parametrize("name", BIASES)
def test_prefix_tokens_have_three_biases(name):
    module = BIASES[name](num_heads=2)
    params = random_params(module, 3, 4, 2)
    params["prefix"] = PREFIX
    bias = bias_of(module, params, 3, 4, 2)
    rest = {**params}
    del rest["prefix"]
    chex.assert_trees_all_equal(bias[:, 2:, 2:], bias_of(module, rest, 3, 4, 0))
    for head in (0, 1):
        assert (bias[head, 2:, :2] == PREFIX[0, head]).all()
        assert (bias[head, :2, 2:] == PREFIX[1, head]).all()
        assert (bias[head, :2, :2] == PREFIX[2, head]).all()


@pytest.mark.parametrize("name", BIASES)
def test_without_prefix_tokens_there_is_no_parameter_for_them(name):
    assert "prefix" not in random_params(BIASES[name](num_heads=2), 3, 4, 0)


@pytest.mark.parametrize("interpolation", ["bicubic", "geometric"])
def test_the_table_of_another_grid_is_resampled(interpolation):
    resized = resample(TABLE, 7, 5, interpolation)
    expected = bias_of(RelativeBias(2), {"table": resized}, 4, 3, 0)
    found = bias_of(RelativeBias(2, interpolation=interpolation), {"table": TABLE}, 4, 3, 0)
    chex.assert_trees_all_equal(found, expected)


def log_spaced(params, i, j, trained):
    """Liu et al. 2022, eq. 4, on offsets that are scaled to -8..8, and the code's 16 sigmoid(x)."""
    place = 8 * np.array([i, j]) / (np.array(trained) - 1)
    x = np.sign(place) * np.log2(1 + np.abs(place)) / np.log2(8)
    hidden = np.maximum(0, x @ params["fc1"]["kernel"] + params["fc1"]["bias"])
    return 16 / (1 + np.exp(-hidden @ params["fc2"]["kernel"]))


@pytest.mark.parametrize(
    ("pretrained", "trained"), [((), (3, 4)), ((6,), (6, 6)), ((0, 6), (3, 4))]
)
def test_log_spaced_bias_is_its_network_of_the_offset(pretrained, trained):
    module = LogSpacedBias(2, pretrained_window=pretrained, hidden_dim=8)
    params = random_params(module, 3, 4, 0)
    bias = bias_of(module, params, 3, 4, 0)
    for i, j, k, m in np.ndindex(3, 4, 3, 4):
        expected = log_spaced(params, i - k, j - m, trained)
        np.testing.assert_allclose(bias[:, 4 * i + j, 4 * k + m], expected, rtol=1e-5)


def test_log_spaced_bias_of_trained_offsets_is_the_same_in_a_larger_window():
    module = LogSpacedBias(2, stage=1, pretrained_window=(9, 3))
    params = random_params(module, 3, 3, 0)
    small, large = (bias_of(module, params, size, size, 0) for size in (3, 5))
    inside = [5 * i + j for i in range(3) for j in range(3)]
    chex.assert_trees_all_close(large[:, inside][:, :, inside], small, rtol=1e-6)


def test_log_spaced_bias_of_a_single_patch_is_finite():
    module = LogSpacedBias(2)
    assert np.isfinite(bias_of(module, random_params(module, 1, 1, 0), 1, 1, 0)).all()
