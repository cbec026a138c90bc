"""Pools: one vector per image."""

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.layers.pools import POOLS

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
TOKENS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8)), jnp.float32)


def make(name):
    return POOLS[name](num_heads=2, mlp_dim=16, norm_eps=0.1)


def random_params(module):
    shapes = jax.eval_shape(lambda: module.init(KEY, TOKENS, 1, train=False))
    params = nn.unbox(shapes).get("params", {})
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)


def pooled(name, tokens, num_prefix):
    module = make(name)
    return module.apply({"params": random_params(module)}, tokens, num_prefix, train=False)


@pytest.mark.parametrize("name", POOLS)
def test_gives_one_vector_per_image(name):
    size = 16 if name == "cls_gap" else 8
    assert jax.eval_shape(lambda: pooled(name, TOKENS, 1)).shape == (2, size)


@pytest.mark.parametrize("name", POOLS)
def test_reads_class_token_is_true_for_the_pools_that_do(name):
    changed = pooled(name, TOKENS.at[:, 0].add(1), 1)
    different = not np.array_equal(changed, pooled(name, TOKENS, 1))
    assert POOLS[name].reads_class_token == different


def test_cls_is_the_first_token():
    chex.assert_trees_all_equal(pooled("cls", TOKENS, 3), TOKENS[:, 0])


@pytest.mark.parametrize("num_prefix", [0, 1, 4])
def test_gap_is_the_mean_of_the_patches(num_prefix):
    expected = TOKENS[:, num_prefix:].mean(axis=1)
    chex.assert_trees_all_close(pooled("gap", TOKENS, num_prefix), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_prefix", [1, 4])
def test_cls_gap_is_the_first_token_before_the_mean_of_the_patches(num_prefix):
    output = pooled("cls_gap", TOKENS, num_prefix)
    chex.assert_trees_all_equal(output[:, :8], TOKENS[:, 0])
    expected = TOKENS[:, num_prefix:].mean(axis=1)
    chex.assert_trees_all_close(output[:, 8:], expected, rtol=1e-6, atol=1e-6)


def test_gap_ignores_class_token_and_registers():
    changed = TOKENS.at[:, :3].add(100)
    expected = pooled("gap", TOKENS, 3)
    chex.assert_trees_all_equal(pooled("gap", changed, 3), expected)


@pytest.mark.parametrize("name", ["cls", "gap", "cls_gap"])
def test_only_map_has_parameters(name):
    assert not random_params(make(name))


def test_the_names_of_maps_parameters():
    assert set(flax.traverse_util.flatten_dict(random_params(make("map")), sep="/")) == {
        "probe",
        "norm/scale",
        "norm/bias",
        "attn/q/kernel",
        "attn/q/bias",
        "attn/kv/kernel",
        "attn/kv/bias",
        "attn/out/kernel",
        "attn/out/bias",
        "mlp/fc1/kernel",
        "mlp/fc1/bias",
        "mlp/fc2/kernel",
        "mlp/fc2/bias",
    }


def test_map_is_the_probes_attention_and_a_feed_forward_residual():
    params = random_params(make("map"))
    probe = jnp.broadcast_to(params["probe"], (2, 1, 8))
    x = CrossAttention(num_heads=2).apply({"params": params["attn"]}, probe, TOKENS[:, 1:])
    y = nn.LayerNorm(epsilon=0.1).apply({"params": params["norm"]}, x)
    expected = (x + Mlp(16).apply({"params": params["mlp"]}, y, train=False))[:, 0]
    chex.assert_trees_all_close(pooled("map", TOKENS, 1), expected, rtol=1e-6, atol=1e-6)


def test_map_ignores_the_order_of_patches_and_all_prefix_tokens():
    expected = pooled("map", TOKENS, 2)
    permuted = pooled("map", TOKENS[:, np.array([0, 1, 5, 3, 2, 4])], 2)
    chex.assert_trees_all_close(permuted, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(pooled("map", TOKENS.at[:, :2].add(9), 2), expected)
