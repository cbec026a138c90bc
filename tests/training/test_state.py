"""The state is made straight into its layout, and a bad update leaves it as it was."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.training import state
from vit_jax.training.run import open_run


def test_init_gives_what_abstract_promises(tiny_config):
    run = open_run(tiny_config({"mesh.fsdp": "2", "mesh.tensor": "2", "optim.ema_decay": "0.9"}))
    with jax.set_mesh(run.mesh):
        first = state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes)
    chex.assert_trees_all_equal_shapes_and_dtypes(first, run.shapes)
    for leaf, shape in zip(jax.tree.leaves(first), jax.tree.leaves(run.shapes), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(first.params))
    chex.assert_trees_all_equal(first.ema, first.params)


def small(ema=True):
    params = {"w": jnp.array([1.0, 2.0])}
    tx = optax.trace(0.9)
    average = {"w": jnp.zeros(2)} if ema else {}
    return state.TrainState(jnp.int32(5), jnp.int32(1), params, tx.init(params), average), tx


def apply(grads, loss=1.0, rate=0.1):
    before, tx = small()
    args = (jnp.float32(loss), {"w": jnp.asarray(grads)}, tx, jnp.float32(rate), 0.75)
    return before, *state.apply_gradients(before, *args)


def test_a_finite_update_changes_everything():
    _, after, metrics = apply([1.0, -1.0])
    np.testing.assert_allclose(after.params["w"], [0.9, 2.1], rtol=1e-6)
    np.testing.assert_allclose(after.ema["w"], [0.225, 0.525], rtol=1e-6)
    assert (int(after.step), int(after.skipped)) == (6, 1)
    np.testing.assert_allclose(metrics["grad_norm"], 2**0.5, rtol=1e-6)


def test_an_average_with_warmup_is_shorter_at_first():
    before, tx = small()
    args = (jnp.float32(1.0), {"w": jnp.asarray([1.0, -1.0])}, tx, jnp.float32(0.1), 0.75)
    after, _ = state.apply_gradients(before, *args, ema_warmup=True)
    np.testing.assert_allclose(after.ema["w"], [0.54, 1.26], rtol=1e-6)  # 1 - 6 / 15 of the new
    later, _ = state.apply_gradients(before.replace(step=jnp.int32(500)), *args, ema_warmup=True)
    np.testing.assert_allclose(later.ema["w"], [0.225, 0.525], rtol=1e-6)


@pytest.mark.parametrize(
    ("grads", "loss", "rate"),
    [
        ([jnp.nan, 1.0], 1.0, 0.1),
        ([jnp.inf, 1.0], 1.0, 0.1),
        ([1.0, 1.0], jnp.nan, 0.1),
        ([1e30, 1.0], 1.0, 0.1),  # the norm overflows
        ([1e10, 1.0], 1.0, 1e30),  # the new parameters do
    ],
)
def test_an_update_that_is_not_finite_changes_only_the_counts(grads, loss, rate):
    before, after, _ = apply(grads, loss, rate)
    for part in ("params", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(before, part))
    assert (int(after.step), int(after.skipped)) == (6, 2)


def test_the_average_is_evaluated_where_there_is_one():
    with_average, _ = small()
    without, _ = small(ema=False)
    assert with_average.eval_params is with_average.ema
    assert without.eval_params is without.params
