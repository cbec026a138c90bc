"""A state has the stacks of its run in training, and none in a checkpoint."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.stacking import stack, unstack
from vit_jax.training import state
from vit_jax.training.memory import bytes_per_device
from vit_jax.training.run import open_run
from vit_jax.training.stacked_state import stack_state, unstack_state

DEEP = {"model.depth": "4", "model.scan": "true"}
MESHES = {
    "data": {},
    "fsdp": {"mesh.fsdp": "2", "mesh.tensor": "2"},
}


def initial(run, given=None):
    with jax.set_mesh(run.mesh):
        return state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes, given, run.stacks)


def assert_laid_out(found, shapes):
    chex.assert_trees_all_equal_shapes_and_dtypes(found, shapes)
    for leaf, shape in zip(jax.tree.leaves(found), jax.tree.leaves(shapes), strict=True):
        assert leaf.sharding == shape.sharding


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_a_state_begins_with_the_values_of_its_blocks(tiny_config, optimizer, mesh):
    settings = {**DEEP, **MESHES[mesh], "optim.name": optimizer, "optim.ema_decay": "0.9"}
    run = open_run(tiny_config(settings))
    plain = open_run(tiny_config({**settings, "model.scan": "false"}))
    assert run.stacks == {"blocks_0_to_blocks_3": tuple(f"blocks_{i}" for i in range(4))}
    assert not plain.stacks
    first = initial(run)
    assert_laid_out(first, run.shapes)
    saved = unstack_state(first, run.stacks)
    assert_laid_out(saved, plain.shapes)
    assert_laid_out(saved, run.saved_shapes)
    chex.assert_trees_all_equal(saved, initial(plain))
    assert run.num_parameters == plain.num_parameters
    assert run.describe() == plain.describe()
    assert bytes_per_device(run.shapes) == bytes_per_device(plain.shapes)


def test_a_stack_is_sharded_like_its_layers(tiny_config):
    run = open_run(tiny_config({**DEEP, **MESHES["fsdp"]}))
    kernel = run.shapes.params["blocks_0_to_blocks_3"]["mlp"]["fc1"]["kernel"]
    assert kernel.shape == (4, 16, 32)
    assert kernel.sharding.spec == jax.P(None, "fsdp", "tensor")
    first = initial(run)
    saved = unstack_state(first, run.stacks)
    assert_laid_out(first, run.shapes)  # it is not changed by that
    before = jax.device_get(first)
    again = stack_state(saved, run.stacks)
    assert_laid_out(again, run.shapes)
    chex.assert_trees_all_equal(jax.device_get(again), before)


def test_stacking_frees_the_buffers_of_blocks(tiny_config):
    run = open_run(tiny_config(DEEP))
    saved = unstack_state(initial(run), run.stacks)
    stack_state(saved, run.stacks)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(saved.params["blocks_0"]))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(saved.params["head"]))


def test_given_values_have_the_names_of_blocks(tiny_config):
    run = open_run(tiny_config({**DEEP, "optim.ema_decay": "0.5"}))
    names = ["params/blocks_2/mlp/fc1/bias", "params/head/bias"]
    given = {name: jnp.full(size, 7.0) for name, size in zip(names, (32, 10), strict=True)}
    first = unstack_state(initial(run, given), run.stacks)
    for params in (first.params, first.ema["params"]):
        assert (params["blocks_2"]["mlp"]["fc1"]["bias"] == 7).all()
        assert (params["head"]["bias"] == 7).all()
        assert (params["blocks_1"]["mlp"]["fc1"]["bias"] != 7).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optim.freeze": "'blocks_[01]/.*'"}, ["blocks_0_to_blocks_1", "blocks_2_to_blocks_3"]),
        ({"optim.freeze": "'blocks_1/attn/.*'"}, ["blocks_2_to_blocks_3"]),
        ({"optim.freeze": "'.*/attn/.*'"}, ["blocks_0_to_blocks_3"]),
        ({"optim.tune": "head"}, ["blocks_0_to_blocks_3"]),
        ({"model.depth": "1"}, []),
    ],
)
def test_a_stack_is_trained_or_frozen_alike(tiny_config, settings, expected):
    run = open_run(tiny_config({**DEEP, **settings}))
    plain = open_run(tiny_config({**DEEP, **settings, "model.scan": "false"}))
    assert list(run.stacks) == expected
    assert run.describe() == plain.describe()
    trains = unstack(run.trains, run.stacks, lambda leaf, index: leaf)
    assert trains == plain.trains
    first = initial(run)
    assert_laid_out(first, run.shapes)
    assert_laid_out(unstack_state(first, run.stacks), plain.shapes)


def test_layers_keep_their_order():
    """Also from the tenth on, whose names sort before that of the second."""
    layers = tuple(f"blocks_{i}" for i in range(12))
    tree = {"mu": {layer: {"bias": np.full(2, i)} for i, layer in enumerate(layers)}, "count": 3}
    stacks = {"blocks_0_to_blocks_11": layers}
    stacked = stack(tree, stacks, lambda *leaves: np.stack(leaves))
    assert stacked["mu"]["blocks_0_to_blocks_11"]["bias"][:, 0].tolist() == list(range(12))
    chex.assert_trees_all_equal(unstack(stacked, stacks), tree)
