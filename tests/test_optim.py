"""Schedules against their formulas; decay and freezing cover every parameter, by name."""

import dataclasses
import math

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import config as config_lib
from vit_jax import optim
from vit_jax.errors import ConfigError

PARAMS = {
    "stem": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "head": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.ones(2)},
}
GRADS = {
    "stem": {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.full(3, -1.0)},
    "head": {"kernel": jnp.full((3, 2), 0.1), "bias": jnp.full(2, 0.2)},
}


def config(**fields):
    return dataclasses.replace(config_lib.Optim(learning_rate=0.4), **fields)


def directions(cfg, num=1):
    _, tx = optim.make(cfg, PARAMS, 100)
    opt_state, updates = tx.init(PARAMS), []
    for _ in range(num):
        update, opt_state = tx.update(GRADS, opt_state, PARAMS)
        updates.append(update)
    return updates


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant", lambda t: 0.4),
        ("cosine", lambda t: 0.1 + 0.3 * (1 + math.cos(math.pi * t / 90)) / 2),
        ("linear", lambda t: 0.4 + (0.1 - 0.4) * t / 90),
        ("rsqrt", lambda t: 0.4 / math.sqrt(1 + t / 50)),
    ],
)
def test_schedule_warms_up_then_decays(name, after):
    cfg = config(schedule=name, warmup_steps=10, end_learning_rate=0.1, timescale=50)
    schedule = optim.schedule(cfg, 100)
    for step in (0, 3, 9):
        np.testing.assert_allclose(schedule(jnp.int32(step)), 0.4 * step / 10, rtol=1e-5, atol=1e-6)
    for step in (10, 40, 99):
        np.testing.assert_allclose(schedule(jnp.int32(step)), after(step - 10), rtol=1e-5)


def test_every_schedule_is_tested():
    assert set(optim.SCHEDULES) == {"constant", "cosine", "linear", "rsqrt"}


def test_no_warmup_starts_at_the_peak():
    assert float(optim.schedule(config(schedule="constant"), 10)(jnp.int32(0))) == pytest.approx(
        0.4
    )


def test_sgd_has_momentum_and_decay_in_the_gradient():
    first, second = directions(config(name="sgd", momentum=0.5, weight_decay=0.1), 2)
    np.testing.assert_allclose(first["head"]["kernel"], 0.1 + 0.1 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(second["head"]["kernel"], 1.5 * 0.3, rtol=1e-6)
    np.testing.assert_allclose(first["head"]["bias"], 0.2, rtol=1e-6)


def test_adamw_equals_optax_with_the_same_mask():
    cfg = config(name="adamw", weight_decay=0.1, b1=0.8, b2=0.9, eps=1e-6)
    mask = {part: {"kernel": True, "bias": False} for part in PARAMS}
    theirs = optax.adamw(1.0, 0.8, 0.9, 1e-6, weight_decay=0.1, mask=mask)
    expected, _ = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)
    (ours,) = directions(cfg)
    chex.assert_trees_all_close(ours, optax.tree.scale(-1.0, expected), rtol=1e-6)


def test_adam_has_no_decay():
    (ours,) = directions(config(name="adam"))
    np.testing.assert_allclose(ours["head"]["kernel"], 1.0, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    (update,) = directions(config(name="sgd", clip_norm=0.5))
    np.testing.assert_allclose(optax.tree.norm(update), 0.5, rtol=1e-6)
    (update,) = directions(config(name="sgd", clip_norm=100.0))
    chex.assert_trees_all_close(update, GRADS, rtol=1e-6)


def test_the_first_decay_rule_that_matches_counts():
    rules = (("head/.*", 0.5), (".*/kernel", 1.0), (".*", 0.0))
    found = optim.decay_multipliers(config(decay_rules=rules), PARAMS)
    assert found == {"head/bias": 0.5, "head/kernel": 0.5, "stem/bias": 0.0, "stem/kernel": 1.0}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((".*/kernel", 1.0),), "no rule for head/bias, stem/bias; end with"),
        ((("blocks/.*", 1.0), (".*", 0.0)), "'blocks/.*' matches no parameter"),
        ((("(", 1.0), (".*", 0.0)), "'(' is not a regular expression"),
    ],
)
def test_decay_rules_that_do_not_cover_are_refused(rules, message):
    with pytest.raises(ConfigError) as error:
        optim.make(config(decay_rules=rules), PARAMS, 10)
    assert str(error.value).startswith("config.optim.decay_rules: ")
    assert message in str(error.value)


def test_frozen_parameters_have_no_update_and_no_moments():
    cfg = config(freeze=("stem/.*",), weight_decay=0.1)
    (update,) = directions(cfg)
    chex.assert_trees_all_equal(update["stem"], optax.tree.zeros_like(PARAMS["stem"]))
    (free,) = directions(config(weight_decay=0.1))
    chex.assert_trees_all_close(update["head"], free["head"], rtol=1e-6)
    _, tx = optim.make(cfg, PARAMS, 10)
    assert sum(leaf.size for leaf in optim.jax.tree.leaves(tx.init(PARAMS))) == 2 * 8 + 1


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("nothing",), "'nothing' matches no parameter"),
        ((".*",), "every parameter is frozen"),
        (("[",), "'[' is not a regular expression"),
    ],
)
def test_freezing_nothing_or_all_is_refused(freeze, message):
    with pytest.raises(ConfigError) as error:
        optim.make(config(freeze=freeze), PARAMS, 10)
    assert message in str(error.value)
