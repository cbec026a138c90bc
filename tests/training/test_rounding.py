"""Stochastic rounding keeps what rounding to nearest loses, and is the same in every run."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError
from vit_jax.models import FAMILIES
from vit_jax.training import optim, rounding

VIT = FAMILIES["vit"]
PARAMS = {"blocks_0": {"fc1": {"kernel": jnp.ones((16, 32)), "bias": jnp.ones(32)}}}


def config(name="adamw", **fields):
    return dataclasses.replace(config_lib.Optim(), name=name, **fields)


def to_nearest(tree, like, seed, step):
    return optax.tree.cast_like(tree, like)


def round_often(x, num=4096):
    """Returns `num` independent roundings of a value, as float32."""
    return rounding.stochastic_round(jnp.full(num, x), jnp.uint32(7)).astype(jnp.float32)


@pytest.mark.parametrize("x", [1.003, -1.003, 3e-20, -2e30, 1.0])
def test_the_mean_of_the_rounded_values_is_the_value(x):
    found = np.unique(round_often(x))
    spacing = 2.0 ** (np.floor(np.log2(abs(x))) - 7)
    assert len(found) <= 2 and abs(found - x).max() < spacing
    np.testing.assert_allclose(round_often(x).mean(), x, atol=4 * spacing / np.sqrt(4 * 4096))


def test_a_bfloat16_value_stays_as_it_is():
    exact = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.bfloat16)
    found = rounding.stochastic_round(exact.astype(jnp.float32), jnp.uint32(3))
    np.testing.assert_array_equal(found, exact)


def test_values_that_are_not_finite_stay_as_they_are():
    x = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan])
    bits = jnp.asarray([0x7FFFFFFF], jnp.uint32)  # a NaN whose bits would overflow
    x = jnp.concatenate([x, jax.lax.bitcast_convert_type(bits, jnp.float32)])
    found = rounding.stochastic_round(x, jnp.uint32(0)).astype(jnp.float32)
    np.testing.assert_array_equal(found, x)


def test_bits_depend_on_seed_step_name_and_element():
    x = jnp.full((64, 64), 1.003)
    tree = {"a": x, "b": x}
    narrow = optax.tree.cast(tree, jnp.bfloat16)
    found = rounding.round_like(tree, narrow, "0", jnp.int32(1))
    chex.assert_trees_all_equal(found, rounding.round_like(tree, narrow, "0", jnp.int32(1)))
    others = [
        found["b"],
        found["a"].T,
        rounding.round_like(tree, narrow, "1", jnp.int32(1))["a"],
        rounding.round_like(tree, narrow, "0", jnp.int32(2))["a"],
    ]
    up = np.asarray(found["a"] > 1).astype(float).ravel()
    for other in others:
        assert abs(np.corrcoef(up, np.asarray(other > 1).ravel())[0, 1]) < 0.05


def second_moment(cfg, scales):
    """Returns the second moments after one step with a gradient of each size."""
    tx = optim.make_optimizer(cfg, PARAMS, VIT)

    def step(opt_state, scale):
        grads = jax.tree.map(lambda p: scale * p, PARAMS)
        return tx.update(grads, opt_state, PARAMS)[1], None

    state, _ = jax.lax.scan(step, tx.init(PARAMS), jnp.asarray(scales, jnp.float32))
    (adam,) = (
        node
        for node in jax.tree.leaves(state, is_leaf=lambda n: isinstance(n, optax.ScaleByAdamState))
        if isinstance(node, optax.ScaleByAdamState)
    )
    return adam.nu


SCALES = [1.0] * 5000 + [1.5**0.5] * 2500 + [0.2**0.5] * 2500


@pytest.mark.parametrize("num", [5000, 7500, 10000])
def test_the_second_moment_follows_the_size_of_the_gradient(num, monkeypatch):
    narrow = config(second_moment_dtype="bfloat16")
    expected = second_moment(config(), SCALES[:num])
    found = second_moment(narrow, SCALES[:num])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32).mean(), b.mean(), rtol=0.05)
    monkeypatch.setattr(rounding, "round_like", to_nearest)
    lost = second_moment(narrow, SCALES[:num])["blocks_0"]["fc1"]["kernel"].astype(jnp.float32)
    assert abs(lost / expected["blocks_0"]["fc1"]["kernel"] - 1).min() > 0.05


@pytest.mark.parametrize("name", optim.WITH_SECOND_MOMENT)
def test_the_state_keeps_its_structure(name):
    cfg = config(name, second_moment_dtype="bfloat16", freeze=(".*/bias",))
    plain = optim.make_optimizer(
        dataclasses.replace(cfg, second_moment_dtype="float32"), PARAMS, VIT
    )
    tx = optim.make_optimizer(cfg, PARAMS, VIT)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal_structs(state, plain.init(PARAMS))
    update, after = tx.update(PARAMS, state, PARAMS)
    expected, _ = plain.update(PARAMS, plain.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(update, expected)  # the first step has nothing to round
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize("name", [n for n in optim.OPTIMIZERS if n not in optim.WITH_SECOND_MOMENT])
def test_an_optimizer_without_second_moments_refuses_their_dtype(name):
    with pytest.raises(ConfigError, match=f"because {name} has no second moment") as error:
        optim.make_optimizer(config(name, second_moment_dtype="bfloat16"), PARAMS, VIT)
    assert str(error.value).startswith("config.optim.second_moment_dtype: expected float32")


def test_the_bits_do_not_depend_on_the_devices():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.full((16, 24), 1.003)
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P("x")))
    found = jax.jit(rounding.stochastic_round)(split, jnp.uint32(5))
    np.testing.assert_array_equal(found, rounding.stochastic_round(x, jnp.uint32(5)))
