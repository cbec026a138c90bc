"""Optimizers against their formulas, and rules for weight decay, learning rate and freezing."""

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
from vit_jax.training import optim, parameter_groups

VIT = FAMILIES["vit"]

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
    tx = optim.make_optimizer(cfg, PARAMS, VIT)
    opt_state, updates = tx.init(PARAMS), []
    for _ in range(num):
        update, opt_state = tx.update(GRADS, opt_state, PARAMS)
        updates.append(update)
    return updates


def test_sgd_has_momentum_and_decoupled_decay():
    first, second = directions(config(name="sgd", momentum=0.5, weight_decay=0.1), 2)
    np.testing.assert_allclose(first["head"]["kernel"], 0.1 + 0.1 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(second["head"]["kernel"], 1.5 * 0.1 + 0.1 * 2.0, rtol=1e-6)
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


def test_the_first_matching_decay_rule_applies():
    rules = (("head/.*", 0.5), (".*/kernel", 1.0), (".*", 0.0))
    found = parameter_groups.decay_multipliers(config(decay_rules=rules), PARAMS)
    assert found == {"head/bias": 0.5, "head/kernel": 0.5, "stem/bias": 0.0, "stem/kernel": 1.0}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((".*/kernel", 1.0),), "no rule matches head/bias, stem/bias; add"),
        ((("blocks/.*", 1.0), (".*", 0.0)), "'blocks/.*' matches no parameter"),
        ((("(", 1.0), (".*", 0.0)), "'(' is not a regular expression"),
    ],
)
def test_incomplete_decay_rules_are_an_error(rules, message):
    with pytest.raises(ConfigError) as error:
        optim.make_optimizer(config(decay_rules=rules), PARAMS, VIT)
    assert str(error.value).startswith("config.optim.decay_rules: ")
    assert message in str(error.value)


def test_frozen_parameters_have_no_update_and_no_moments():
    cfg = config(freeze=("stem/.*",), weight_decay=0.1)
    (update,) = directions(cfg)
    chex.assert_trees_all_equal(update["stem"], optax.tree.zeros_like(PARAMS["stem"]))
    (free,) = directions(config(weight_decay=0.1))
    chex.assert_trees_all_close(update["head"], free["head"], rtol=1e-6)
    tx = optim.make_optimizer(cfg, PARAMS, VIT)
    assert sum(leaf.size for leaf in jax.tree.leaves(tx.init(PARAMS))) == 2 * 8 + 1


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("nothing",), "'nothing' matches no parameter"),
        ((".*",), "all parameters are frozen"),
        (("[",), "'[' is not a regular expression"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_an_error(freeze, message):
    with pytest.raises(ConfigError) as error:
        optim.make_optimizer(config(freeze=freeze), PARAMS, VIT)
    assert message in str(error.value)


# --- The other optimizers, against their formulas in NumPy.


def steps_of(cfg, gradients, start):
    """Returns a parameter `blocks_0/x/kernel` after steps with learning rate 0.1."""
    params = {"blocks_0": {"x": {"kernel": jnp.asarray(start, jnp.float32)}}}
    tx = optim.make_optimizer(cfg, params, VIT)
    opt_state, found = tx.init(params), []
    for gradient in gradients:
        grads = {"blocks_0": {"x": {"kernel": jnp.asarray(gradient, jnp.float32)}}}
        update, opt_state = tx.update(grads, opt_state, params)
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, update)
        found.append(np.asarray(params["blocks_0"]["x"]["kernel"]))
    return found


RNG = np.random.default_rng(0)
START = RNG.normal(size=(4, 6))
GRADIENTS = RNG.normal(size=(10, 4, 6))


def adam_directions(b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def test_lamb_scales_updates_to_the_norm_of_the_parameter():
    x, expected = START, []
    for direction in adam_directions():
        u = direction + 0.05 * x
        x = x - 0.1 * np.linalg.norm(x) / np.linalg.norm(u) * u
        expected.append(x)
    found = steps_of(config(name="lamb", weight_decay=0.05), GRADIENTS, START)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_lamb_does_not_rescale_parameters_without_decay():
    (found,) = directions(config(name="lamb", weight_decay=0.1))
    (expected,) = directions(config(name="adamw", weight_decay=0.1))
    chex.assert_trees_all_close(found["head"]["bias"], expected["head"]["bias"], rtol=1e-6)
    ratio = found["head"]["kernel"] / expected["head"]["kernel"]
    np.testing.assert_allclose(ratio, 2.0 / (1 + 0.1 * 2.0), rtol=1e-4)


def test_lion_updates_are_signs():
    x, m, expected = START, 0.0, []
    for g in GRADIENTS:
        x = x - 0.1 * (np.sign(0.9 * m + 0.1 * g) + 0.05 * x)
        m = 0.99 * m + 0.01 * g
        expected.append(x)
    cfg = config(name="lion", b1=0.9, b2=0.99, weight_decay=0.05)
    np.testing.assert_allclose(steps_of(cfg, GRADIENTS, START), expected, rtol=1e-5, atol=1e-6)


def test_adafactor_factors_the_second_moment_of_large_matrices():
    start, gradients = RNG.normal(size=(40, 48)), RNG.normal(size=(3, 40, 48))
    x, m, rows, columns, expected = start, 0.0, 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        b2 = min(0.999, 1 - t**-0.8)
        rows = b2 * rows + (1 - b2) * (g**2 + 1e-30).mean(axis=1)
        columns = b2 * columns + (1 - b2) * (g**2 + 1e-30).mean(axis=0)
        u = g / np.sqrt(rows[:, None] * columns[None] / rows.mean())
        u = u / max(1.0, np.sqrt((u**2).mean()))
        m = 0.9 * m + 0.1 * u
        x = x - 0.1 * (m + 0.05 * x)
        expected.append(x)
    found = steps_of(config(name="adafactor", weight_decay=0.05), gradients, start)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_muon_updates_are_orthogonal_with_the_rms_of_adam():
    (found,) = steps_of(config(name="muon"), GRADIENTS[:1], START)
    update = (START - found) / 0.1 / (0.2 * np.sqrt(6))  # times sqrt of the larger side
    singular = np.linalg.svd(update, compute_uv=False)
    assert ((singular > 0.6) & (singular < 1.3)).all()  # what five of Newton and Schulz's give


def test_muon_orthogonalizes_queries_keys_and_values_separately():
    def directions_of(name, shape, grads):
        params = {"blocks_0": {"attn": {name: {"kernel": jnp.zeros(shape)}}}}
        tx = optim.make_optimizer(config(name="muon", momentum=0.0), params, VIT)
        given = {"blocks_0": {"attn": {name: {"kernel": jnp.asarray(grads, jnp.float32)}}}}
        update, _ = tx.update(given, tx.init(params), params)
        return np.asarray(update["blocks_0"]["attn"][name]["kernel"])

    grads = RNG.normal(size=(8, 3, 2, 4))
    together = directions_of("qkv", (8, 3, 2, 4), grads)
    for i in range(3):
        alone = directions_of("fc1", (8, 8), grads[:, i].reshape(8, 8))
        np.testing.assert_allclose(together[:, i].reshape(8, 8), alone, rtol=1e-4, atol=1e-5)
    out = directions_of("out", (2, 4, 8), grads[:, 0].reshape(2, 4, 8))
    alone = directions_of("fc1", (8, 8), grads[:, 0].reshape(8, 8))
    np.testing.assert_allclose(out.reshape(8, 8), alone, rtol=1e-4, atol=1e-5)


def test_muon_uses_adamw_for_the_head_and_can_be_partly_frozen():
    (found,) = directions(config(name="muon", weight_decay=0.1, freeze=("stem/.*",)))
    (expected,) = directions(config(name="adamw", weight_decay=0.1, freeze=("stem/.*",)))
    # Nesterov's first step of Adam is another: g m1 / (1 - b1^2) and so on, of the same sign.
    chex.assert_trees_all_equal(found["stem"], expected["stem"])
    assert (np.sign(found["head"]["bias"]) == np.sign(expected["head"]["bias"])).all()


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_the_first_moment_may_be_bfloat16(name):
    tx = optim.make_optimizer(config(name=name, moment_dtype="bfloat16"), PARAMS, VIT)
    opt_state = tx.init(PARAMS)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(opt_state)]
    assert jnp.bfloat16 in dtypes
    update, _ = tx.update(GRADS, opt_state, PARAMS)
    chex.assert_tree_all_finite(update)


def test_the_weight_decay_of_big_vision_is_converted():
    """Their optimizer, written out: the rate and the decay are separate factors of the schedule."""
    rate, decay, schedule = 1e-3, 1e-4, np.linspace(1, 0.1, 10)
    x, expected = START, []
    for t, direction in enumerate(adam_directions()):
        x = x - schedule[t] * (rate * direction + decay * x)
        expected.append(x)
    ours = config(learning_rate=rate, weight_decay=optim.weight_decay(decay, "big_vision", rate))
    assert ours.weight_decay == pytest.approx(0.1)
    params = {"blocks_0": {"x": {"kernel": jnp.asarray(START, jnp.float32)}}}
    tx = optim.make_optimizer(ours, params, VIT)
    opt_state = tx.init(params)
    for gradient, factor, there in zip(GRADIENTS, schedule, expected, strict=True):
        grads = {"blocks_0": {"x": {"kernel": jnp.asarray(gradient, jnp.float32)}}}
        update, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, optax.tree.scale(-factor * rate, update))
        found = params["blocks_0"]["x"]["kernel"]
        np.testing.assert_allclose(found, there, rtol=1e-6, atol=1e-7)
    assert optim.weight_decay(0.1, "augreg", 1e-3) == optim.weight_decay(0.1, "torch", 1e-3) == 0.1
    with pytest.raises(ConfigError, match="unknown 'keras'"):
        optim.weight_decay(0.1, "keras", 1e-3)


# --- Rates by parameter.


def test_layer_decay_multiplies_rates_layer_by_layer():
    names = [
        *("stem/kernel", "posemb/grid", "cls_token", "blocks_0/attn/kernel", "blocks_0_posemb/x"),
        *("blocks_1/fc1/kernel", "norm/scale", "head/kernel", "head_dist/bias"),
    ]
    layers = parameter_groups.layer_indices(names, VIT)
    assert [layers[name] for name in names] == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    swin = [
        "stem_norm/scale",
        "stages_0_0/x",
        "stages_0_1/x",
        "merge_0/x",
        "stages_1_0/x",
        "norm/x",
    ]
    assert list(parameter_groups.layer_indices(swin, FAMILIES["swin"]).values()) == [
        0,
        1,
        2,
        3,
        3,
        4,
    ]
    params = {"stem": {"kernel": 0}, "blocks_0": {"kernel": 0}, "head": {"kernel": 0}}
    rules = (("head/.*", 2.0), (".*", 1.0))
    found = parameter_groups.rate_multipliers(
        config(layer_decay=0.5, rate_rules=rules), params, VIT
    )
    assert found == {"stem/kernel": 0.25, "blocks_0/kernel": 0.5, "head/kernel": 2.0}


def test_rate_multipliers_apply_to_the_decay_too():
    rules = (("head/.*", 0.5), (".*", 1.0))
    (plain,) = directions(config(weight_decay=0.1))
    (found,) = directions(config(weight_decay=0.1, rate_rules=rules))
    chex.assert_trees_all_close(found["stem"], plain["stem"])
    chex.assert_trees_all_close(found["head"], optax.tree.scale(0.5, plain["head"]))
    with pytest.raises(ConfigError, match=r"config\.optim\.rate_rules: no rule matches stem"):
        directions(config(rate_rules=(("head/.*", 1.0),)))


def test_a_linear_probe_trains_only_the_head():
    trains = parameter_groups.trainable(config(tune="head"), PARAMS)
    assert not any(jax.tree.leaves(trains["stem"])) and all(jax.tree.leaves(trains["head"]))
    with pytest.raises(ConfigError, match=r"config\.optim\.tune: unknown 'heads'"):
        parameter_groups.trainable(config(tune="heads"), PARAMS)


def test_the_sam_perturbation_has_the_norm_of_the_radius():
    worse = optim.sam_perturb(PARAMS, GRADS, 0.3)
    moved = jax.tree.map(jnp.subtract, worse, PARAMS)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.3, rtol=1e-5)
    np.testing.assert_allclose(moved["stem"]["bias"] / moved["stem"]["kernel"][0], -2, rtol=1e-3)
