"""Kernels in bfloat16 train as those in float32, and whatever reads a run gets float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY, resolved
from etils import epath

from vit_jax import config as config_lib
from vit_jax import train as train_lib
from vit_jax.checkpoints import reading
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.errors import ConfigError
from vit_jax.training import resume, rounding, state, warm_start
from vit_jax.training.parameter_groups import parameter_names
from vit_jax.training.run import open_run
from vit_jax.training.step import make_train_step

NARROW = {"optim.param_dtype": "bfloat16", "optim.second_moment_dtype": "bfloat16"}
RUN = {**NARROW, "checkpoint.every_steps": "2", "optim.ema_decay": "0.5", "mesh.fsdp": "2"}


def make(overrides):
    tree = config_lib.to_config_dict(config_lib.Config())
    return config_lib.resolve(tree, {**TINY, **overrides}).config


def train(overrides, workdir, **kwargs):
    return train_lib.train(resolved(make(overrides)), epath.Path(workdir), **kwargs)


def final_state(overrides, workdir):
    """Returns the state in the newest checkpoint, without stacks."""
    run = open_run(make(overrides))
    checkpoints = Checkpoints(epath.Path(workdir) / "checkpoints", 2)
    with jax.set_mesh(run.mesh):
        items = checkpoints.restore(checkpoints.find(run.fingerprint), run.saved_shapes.to_items())
    return jax.device_get(state.TrainState.from_items(items))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of four steps, and its last state."""
    workdir = tmp_path_factory.mktemp("trained")
    train(RUN, workdir)
    return workdir, final_state(RUN, workdir)


def test_only_kernels_are_narrow(trained):
    _, final = trained
    names = parameter_names(final.params)
    for name, leaf in zip(names, jax.tree.leaves(final.params), strict=True):
        assert leaf.dtype == (jnp.bfloat16 if name.endswith("kernel") else jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(final.ema)} == {jnp.dtype("float32")}


STACKED = {"model.depth": "2", "model.scan": "True"}


@pytest.mark.parametrize(
    "more", [{}, {**STACKED, "optim.name": "adamw"}, {**STACKED, "optim.name": "muon"}]
)
def test_a_resumed_run_rounds_as_one_that_was_never_stopped(more, tmp_path):
    whole = {**RUN, **more, "optim.schedule": "constant"}
    train({**whole, "total_steps": "2"}, tmp_path / "parts")
    train(whole, tmp_path / "parts", allowed=("total",))
    train(whole, tmp_path / "whole")
    chex.assert_trees_all_equal(
        final_state(whole, tmp_path / "parts"), final_state(whole, tmp_path / "whole")
    )


def test_those_who_read_a_run_get_float32(trained):
    workdir, final = trained
    opened = from_pretrained(str(workdir), weights="raw")
    chex.assert_trees_all_equal(
        jax.device_get(opened.variables["params"]), final.variables["params"]
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), final.variables)
    _, arrays = reading.load_arrays(epath.Path(workdir), shapes, ema=False)
    chex.assert_trees_all_equal(arrays, final.variables)
    chex.assert_trees_all_equal_dtypes(arrays, final.variables)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_starts_from_its_average(trained, dtype):
    workdir, final = trained
    run = open_run(make({"init_from": str(workdir), "optim.param_dtype": dtype}))
    with jax.set_mesh(run.mesh):
        given, _ = warm_start.load_variables(run)
        first = state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes, given)
    expected = final.ema["params"]["stem"]["proj"]["kernel"].astype(dtype)
    np.testing.assert_array_equal(first.params["stem"]["proj"]["kernel"], expected)


def test_the_dtype_changes_only_if_allowed(trained, tmp_path):
    workdir, final = trained
    wide = {**RUN, "optim.param_dtype": "float32"}
    with pytest.raises(ConfigError, match=r"^config\.optim\.param_dtype"):
        train(wide, workdir)
    run = open_run(make(wide))
    with jax.set_mesh(run.mesh):
        after, notes = resume.carry_over(run, final, same_optimizer=True)
    assert notes == ["kernels are converted to float32"]
    chex.assert_trees_all_equal(jax.device_get(after.params), final.variables["params"])
    chex.assert_trees_all_equal(jax.device_get(after.opt_state), final.opt_state)
    run = open_run(make(RUN))
    with jax.set_mesh(run.mesh):
        again, notes = resume.carry_over(run, jax.device_get(after), same_optimizer=True)
    assert notes == ["kernels are converted to bfloat16"]
    chex.assert_trees_all_equal(jax.device_get(again), final)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match=r"^config\.optim\.param_dtype: unknown 'float16'"):
        open_run(make({"optim.param_dtype": "float16"}))


def to_nearest(tree, like, seed, step):
    return optax.tree.cast_like(tree, like)


def follow(param_dtype, num=60):
    """Returns the losses on one batch, and how far each kernel of the blocks moves.

    A step is smaller than half the spacing of bfloat16 at most weights.
    """
    rate = {"optim.learning_rate": "1e-4", "optim.schedule": "constant"}
    config = make({**rate, "optim.param_dtype": param_dtype, "total_steps": str(num)})
    run = open_run(config, jax.devices()[:1])
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (16, 8, 8, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, 16), jnp.int32),
    }
    losses = []
    with jax.set_mesh(run.mesh):
        current = state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes)
        before = jax.device_get(current.variables["params"])
        step = make_train_step(run)
        for _ in range(num):
            current, metrics = step(current, batch, {})
            losses.append(float(metrics["loss"]))
    after = jax.device_get(current.variables["params"])
    moves = jax.tree.map(np.subtract, after, before)["blocks_0"]
    kernels = [leaf.ravel() for leaf in jax.tree.leaves(moves) if leaf.ndim > 1]
    return np.array(losses), np.concatenate(kernels)


def test_small_steps_add_up(monkeypatch):
    expected, far = follow("float32")
    found, moved = follow("bfloat16")
    fall = expected[0] - expected[-1]
    assert abs(found - expected).max() < 0.05 * fall
    assert moved @ far / (far @ far) == pytest.approx(1.0, abs=0.1)
    monkeypatch.setattr(rounding, "round_like", to_nearest)
    lost, stuck = follow("bfloat16")
    assert abs(lost - expected).max() > 0.1 * fall
    assert stuck @ far / (far @ far) < 0.5
