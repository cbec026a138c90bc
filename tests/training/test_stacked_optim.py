"""Every optimizer acts on the layers of a stack as on parameters of their own."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.models import FAMILIES
from vit_jax.models.stacking import find_stacks, stack, unstack
from vit_jax.training import optim, parameter_groups

PARTS = {"stem": {"name": "patch", "patch": (2, 2)}, "num_classes": 3, "scan": True}
MODELS = {
    "vit": models.create("vit_mu4", depth=4, width=32, mlp_dim=32, num_heads=2, **PARTS),
    "swin": models.create(  # even and odd blocks
        "swin_t_w7",
        **{"depths": (5,), "num_heads": (2,), "width": 32, "mlp_ratio": 1.0, **PARTS},
        attention={"name": "window", "window": (2, 2)},
    ),
}
# Rules that differ between the layers of a stack.
RULES = {
    "weight_decay": 0.1,
    "decay_rules": ((r".*_[12]/.*/fc1/kernel", 0.0), (".*/kernel", 1.0), (".*", 0.0)),
    "rate_rules": ((r".*_2/.*", 2.0), (".*", 1.0)),
    "layer_decay": 0.7,
    "clip_norm": 1.0,
}


class Case:
    """An optimizer of a model, with and without stacks."""

    def __init__(self, family, **settings):
        config = config_lib.Optim(**settings)
        self.params = nn.unbox(models.abstract_variables(MODELS[family], (8, 8, 1))["params"])
        trains = parameter_groups.trainable(config, self.params)
        self.stacks = find_stacks(
            MODELS[family], lambda block: tuple(jax.tree.leaves(trains[block]))
        )
        plain = optim.make_optimizer(config, self.params, FAMILIES[family])
        stacked = optim.make_optimizer(config, self.params, FAMILIES[family], self.stacks)
        self.plain, self.stacked = (jax.jit(self.step(tx)) for tx in (plain, stacked))
        self.init_plain, self.init_stacked = jax.jit(plain.init), jax.jit(stacked.init)

    @staticmethod
    def step(tx):
        def update(params, grads, opt_state):
            direction, opt_state = tx.update(grads, opt_state, params)
            return jax.tree.map(lambda p, d: p - 0.1 * d, params, direction), opt_state

        return update

    def random(self, seed):
        """Returns numbers for all parameters, with another norm in each."""
        rng = np.random.default_rng(seed)

        def draw(leaf):
            numbers = rng.normal(size=leaf.shape) * rng.uniform(0.1, 2)
            return jnp.asarray(numbers, jnp.float32)

        return jax.tree.map(draw, self.params)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_three_steps_are_those_of_the_layers(name, family):
    case = Case(family, name=name, **RULES)
    assert len(case.stacks) == {"vit": 1, "swin": 2}[family]
    params = case.random(0)
    left = params, case.init_plain(params)
    stacked = stack(params, case.stacks)
    right = stacked, case.init_stacked(stacked)
    chex.assert_trees_all_equal(unstack(right, case.stacks), left)
    for seed in (1, 2, 3):
        grads = case.random(seed)
        left = case.plain(left[0], grads, left[1])
        right = case.stacked(right[0], stack(grads, case.stacks), right[1])
    found = unstack(right, case.stacks)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, left)
    chex.assert_trees_all_close(found, left, rtol=1e-6, atol=1e-6)


FREEZE = {"freeze": ("stem/.*", r"blocks_0/.*", r"blocks_[01]/attn/.*")}


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
@pytest.mark.parametrize("settings", [FREEZE, {"tune": "head"}], ids=["blocks", "all but heads"])
def test_stacks_end_where_other_parameters_are_frozen(name, settings):
    case = Case("vit", name=name, **{**RULES, "rate_rules": ((".*", 0.5),)}, **settings)
    expected = {
        "freeze": {"blocks_2_to_blocks_3": ("blocks_2", "blocks_3")},
        "tune": {"blocks_0_to_blocks_3": tuple(f"blocks_{i}" for i in range(4))},
    }
    assert case.stacks == expected[next(iter(settings))]
    params = case.random(0)
    left = case.plain(params, case.random(1), case.init_plain(params))
    stacked, grads = (stack(tree, case.stacks) for tree in (params, case.random(1)))
    right = case.stacked(stacked, grads, case.init_stacked(stacked))
    found = unstack(right, case.stacks)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, left)
    chex.assert_trees_all_close(found, left, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_equal(found[0]["stem"], params["stem"])


def test_one_optimizer_takes_parameters_with_and_without_stacks():
    """So that a checkpoint, which has no stacks, can be converted to another optimizer."""
    case = Case("vit", name="adafactor", **RULES, **FREEZE)
    params = case.random(0)
    chex.assert_trees_all_equal(case.init_stacked(params), case.init_plain(params))
    with_rule = case.stacked(params, case.random(1), case.init_stacked(params))
    plain = case.plain(params, case.random(1), case.init_plain(params))
    chex.assert_trees_all_close(with_rule, plain, rtol=1e-6, atol=1e-6)


def test_messages_name_blocks():
    with pytest.raises(ConfigError, match=r"no rule matches blocks_0/attn/out/bias, blocks_0/attn"):
        Case("vit", decay_rules=(("stem/.*", 1.0),))
