"""The state is created sharded, and a non-finite update does not change it."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.training import state
from vit_jax.training.objectives import Aux
from vit_jax.training.run import open_run
from vit_jax.training.update import Update


def test_init_matches_the_abstract_state(tiny_config):
    run = open_run(tiny_config({"mesh.fsdp": "2", "mesh.tensor": "2", "optim.ema_decay": "0.9"}))
    with jax.set_mesh(run.mesh):
        first = state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes)
    chex.assert_trees_all_equal_shapes_and_dtypes(first, run.shapes)
    for leaf, shape in zip(jax.tree.leaves(first), jax.tree.leaves(run.shapes), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(first.params))
    chex.assert_trees_all_equal(first.ema, {"params": first.params})


def test_collections_are_sharded_by_axis_names_or_replicated(tiny_config):
    run = open_run(tiny_config({"mesh.fsdp": "2"}))
    boxed = models.abstract_variables(run.model, (8, 8, 1))
    vector = jax.ShapeDtypeStruct((16,), jnp.float32)
    named = nn.LogicallyPartitioned(vector, ("embed",))
    boxed["statistics"] = {"named": named, "plain": vector}
    found = state.abstract_state(boxed, run.tx, run.mesh, ema=True)
    for tree in (found.collections, {k: v for k, v in found.ema.items() if k != "params"}):
        assert tree.keys() == {"statistics"}
        assert tree["statistics"]["named"].sharding.spec == jax.P("fsdp")
        assert tree["statistics"]["plain"].sharding.spec == jax.P()


def opt_shapes(cfg, name):
    """Returns the moments of a parameter, by field."""
    leaves = jax.tree_util.tree_leaves_with_path(open_run(cfg).shapes.opt_state)
    found = {}
    for path, leaf in leaves:
        keys = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        if "/".join(map(str, keys)).endswith(name):
            field = next(key for key in reversed(path) if hasattr(key, "name"))
            found[field.name] = leaf
    return found


FSDP2_TENSOR2 = {
    **{"mesh.fsdp": "2", "mesh.tensor": "2", "model.width": "64", "model.mlp_dim": "128"},
}


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        # The largest dimension is averaged over in rows, the second largest in columns.
        ("mlp/fc1/kernel", ((64,), ("fsdp",)), ((128,), ("tensor",))),
        ("mlp/fc2/kernel", ((64,), ("fsdp",)), ((128,), ("tensor",))),
        (
            "attn/qkv/kernel",
            ((3, 2, 32), (None, "tensor", None)),
            ((64, 3, 2), ("fsdp", None, "tensor")),
        ),
        ("norm1/scale", ((1,), ()), ((1,), ())),
    ],
)
def test_factored_moments_lie_as_the_dimensions_they_keep(tiny_config, name, rows, columns):
    found = opt_shapes(
        tiny_config({**FSDP2_TENSOR2, "optim.name": "adafactor"}), f"blocks_0/{name}"
    )
    for field, (shape, spec) in (("v_row", rows), ("v_col", columns)):
        assert found[field].shape == shape
        assert found[field].sharding.spec == jax.P(*spec)


def test_a_factored_moment_of_a_square_parameter_lies_as_the_dimension_it_keeps(tiny_config):
    square = {**FSDP2_TENSOR2, "optim.name": "adafactor", "model.mlp_dim": "64"}
    found = opt_shapes(tiny_config(square), "blocks_0/mlp/fc1/kernel")
    specs = {field: found[field].sharding.spec for field in ("v_row", "v_col")}
    assert specs == {"v_row": jax.P("fsdp"), "v_col": jax.P("tensor")}


def test_the_momentum_of_muon_lies_as_its_parameters(tiny_config):
    found = opt_shapes(
        tiny_config({**FSDP2_TENSOR2, "optim.name": "muon"}), "blocks_0/mlp/fc1/kernel"
    )
    assert found["mu"].sharding.spec == jax.P("fsdp", "tensor")


def small(ema=True):
    params = {"w": jnp.array([1.0, 2.0])}
    tx = optax.trace(0.9)
    statistics = {"stats": {"mean": jnp.array([1.0]), "count": jnp.int32(3)}}
    average = {
        "params": {"w": jnp.zeros(2)},
        "stats": {"mean": jnp.zeros(1), "count": jnp.int32(2)},
    }
    return state.TrainState(
        step=jnp.int32(5),
        skipped=jnp.int32(1),
        params=params,
        collections=statistics,
        opt_state=tx.init(params),
        ema=average if ema else {},
    ), tx


def apply(grads, loss=1.0, rate=0.1, mean=2.0, metrics=None, before=None, **settings):
    """Returns the state before and after an update, and its metrics."""
    first, tx = small()
    before = before or first
    update = Update(tx, lambda step: rate, 0.75, **settings)
    collections = {"stats": {"mean": jnp.array([mean]), "count": jnp.int32(4)}}
    aux = Aux(collections, metrics or {})
    grads = {"w": jnp.asarray(grads)}
    return before, *update.apply_gradients(before, grads, jnp.float32(loss), aux)


def test_a_finite_update_changes_everything():
    _, after, metrics = apply([1.0, -1.0])
    np.testing.assert_allclose(after.params["w"], [0.9, 2.1], rtol=1e-6)
    np.testing.assert_allclose(after.ema["params"]["w"], [0.225, 0.525], rtol=1e-6)
    assert (int(after.step), int(after.skipped)) == (6, 1)
    assert after.collections == {"stats": {"mean": 2.0, "count": 4}}
    assert after.ema["stats"] == {"mean": 0.5, "count": 4}  # integers have no average
    np.testing.assert_allclose(metrics["grad_norm"], 2**0.5, rtol=1e-6)


def test_the_ema_decay_warms_up():
    before, after, _ = apply([1.0, -1.0], ema_warmup=True)
    average = after.ema["params"]["w"]
    np.testing.assert_allclose(average, [0.54, 1.26], rtol=1e-6)  # 1 - 6 / 15 of the new
    late = before.replace(step=jnp.int32(500))
    _, later, _ = apply([1.0, -1.0], before=late, ema_warmup=True)
    np.testing.assert_allclose(later.ema["params"]["w"], [0.225, 0.525], rtol=1e-6)


@pytest.mark.parametrize(
    ("grads", "loss", "rate", "mean"),
    [
        ([jnp.nan, 1.0], 1.0, 0.1, 2.0),
        ([jnp.inf, 1.0], 1.0, 0.1, 2.0),
        ([1.0, 1.0], jnp.nan, 0.1, 2.0),
        ([1.0, 1.0], 1.0, 0.1, jnp.nan),
        ([1e30, 1.0], 1.0, 0.1, 2.0),  # the norm overflows
        ([1e10, 1.0], 1.0, 1e30, 2.0),  # the new parameters do
    ],
)
def test_a_non_finite_update_changes_only_the_counters(grads, loss, rate, mean):
    before, after, _ = apply(grads, loss, rate, mean)
    for part in ("params", "collections", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(before, part))
    assert (int(after.step), int(after.skipped)) == (6, 2)


def test_the_ema_is_evaluated_if_it_is_enabled():
    with_average, _ = small()
    without, _ = small(ema=False)
    assert with_average.eval_variables is with_average.ema
    assert without.eval_variables == {"params": without.params, **without.collections}


def test_metrics_of_an_objective_need_unused_names():
    _, _, metrics = apply([1.0, -1.0], metrics={"entropy": jnp.float32(3.0)})
    assert metrics["entropy"] == 3.0
    for name in ("loss", "step", "val/loss"):
        with pytest.raises(ConfigError, match=f"cannot log the metric '{name}'; choose"):
            apply([1.0, -1.0], metrics={name: jnp.float32(3.0)})


def test_a_checkpoint_has_no_empty_items():
    full, _ = small()
    names = {"params", "collections", "ema", "ema_collections", "rest"}
    assert full.to_items().keys() == names
    plain = full.replace(collections={}, ema={"params": full.params})
    assert plain.to_items().keys() == {"params", "ema", "rest"}
    for tree in (full, plain, full.replace(ema={})):
        chex.assert_trees_all_equal(state.TrainState.from_items(tree.to_items()), tree)


def test_the_ema_of_a_constant_does_not_drift():
    update = Update(optax.identity(), lambda step: 0.1, 0.9999)
    value = {"params": {"w": jnp.asarray(np.random.default_rng(0).normal(size=999), jnp.float32)}}
    first, _ = small()
    current = first.replace(ema=value)
    for _ in range(3):
        current = current.replace(ema=update._update_ema(current, value))
    chex.assert_trees_all_equal(current.ema, value)
