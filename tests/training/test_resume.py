"""Resuming with other settings: what is kept, what starts anew, and what is refused by its key."""

import dataclasses
import itertools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, TINY, resolved
from etils import epath

from vit_jax import config as config_lib
from vit_jax import train as train_lib
from vit_jax.checkpoints import pretrained, seals
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.config import stored
from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.training import resume
from vit_jax.training.run import open_run

AVERAGE = {"optim.ema_decay": "0.5"}
FREEZE = {"optim.freeze": "'stem/.*', 'blocks_0/attn/.*'"}
TINIER = {"model.depth": "1", "model.width": "32", "model.mlp_dim": "32"}


def make(overrides):
    tree = config_lib.to_config_dict(config_lib.Config())
    return config_lib.resolve(tree, {**TINY, **TINIER, **overrides}).config


def alone(overrides):
    """Returns a run on one device."""
    return open_run(make(overrides), jax.devices()[:1])


def trained(overrides, step=4):
    """Returns the state of a run at a step, as if it had trained: every number is another."""
    counter = itertools.count(1)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jax.device_put(jnp.full(leaf.shape, step, leaf.dtype), leaf.sharding)
        numbers = (np.arange(leaf.size) + 1000 * next(counter)) / 2**20
        values = jnp.asarray(numbers.reshape(leaf.shape), leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(fill, alone(overrides).shapes)


def carry_over(state, overrides, same_optimizer=True):
    """Returns what a run makes of the state of another, and its notes."""
    run = alone(overrides)
    state, notes = resume.carry_over(run, state, same_optimizer=same_optimizer)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, run.shapes)
    return state, notes


def moments(state, field):
    """Returns the leaves of one field of the optimizer's state by parameter."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        names = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
        if field in names:
            found["/".join(names[names.index(field) + 1 :])] = leaf
    return found


def assert_same_leaves(left, right):
    for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        np.testing.assert_array_equal(a, b)


# --- The state.

MOVES = {"optim.clip_norm": "1", "optim.layer_decay": "0.7"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "lion", "adafactor", "muon"])
def test_what_only_moves_in_the_tree_is_kept(optimizer):
    """A clip and multipliers have no state, but change where that of the optimizer is."""
    name = {"optim.name": optimizer}
    before = trained(name)
    moved, notes = carry_over(before, {**name, **MOVES})
    assert jax.tree.structure(moved) != jax.tree.structure(before)
    back, more = carry_over(moved, name)
    assert notes == more == []
    assert_same_leaves(moved, before)
    assert_same_leaves(back, before)


@pytest.mark.parametrize(
    "change",
    [
        {"optim.rate_rules": "('head/.*', 0.5), ('.*', 1.0)"},
        {"optim.decay_rules": "('.*', 1.0),"},
        {"optim.sam_radius": "0.1", "optim.accum_steps": "2", "optim.b1": "0.5"},
        {"optim.schedule": "rsqrt", "optim.learning_rate": "0.1", "optim.warmup_steps": "1"},
        {"optim.eps": "1e-5", "optim.weight_decay": "1"},
    ],
    ids=str,
)
def test_other_rules_and_schedules_keep_all(change):
    before = trained({})
    after, notes = carry_over(before, change)
    assert notes == []
    assert_same_leaves(after, before)


def test_an_unchanged_state_is_not_touched():
    before = trained(AVERAGE)
    after, notes = carry_over(before, {**AVERAGE, "optim.ema_decay": "0.9"})
    assert after is before and notes == []


def test_an_average_starts_from_the_variables():
    state, notes = carry_over(trained({}), AVERAGE)
    chex.assert_trees_all_equal(state.ema, state.variables)
    assert notes == ["the moving average starts from the parameters of step 4"]


def test_an_average_is_left_out():
    before = trained(AVERAGE)
    state, notes = carry_over(before, {})
    assert state.ema == {}
    assert notes == ["the moving average is dropped, because config.optim.ema_decay is 0 now"]
    chex.assert_trees_all_equal(state, before.replace(ema={}))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lamb", "muon"])
def test_another_optimizer_starts_anew(optimizer):
    before = trained({})
    change = {"optim.name": optimizer}
    state, notes = carry_over(before, change, same_optimizer=False)
    assert notes == [f"the moments of {optimizer} start at zero; step and parameters are kept"]
    new = alone(change).tx.init(before.params)
    chex.assert_trees_all_equal(state, before.replace(opt_state=new))


def test_frozen_parameters_lose_their_moments_and_others_begin_at_zero():
    before = trained({})
    frozen, notes = carry_over(before, FREEZE)
    mu, kept = moments(before, "mu"), moments(frozen, "mu")
    assert {name.split("/")[0] for name in mu.keys() - kept.keys()} == {"stem", "blocks_0"}
    for name, value in kept.items():
        np.testing.assert_array_equal(value, mu[name])
    lost = 2 * (len(mu) - len(kept))
    assert notes == [f"{lost} of the optimizer's moments are dropped"]
    again, notes = carry_over(frozen, {})
    for name, value in moments(again, "mu").items():
        expected = mu[name] if name in kept else jnp.zeros_like(value)
        np.testing.assert_array_equal(value, expected)
    assert notes == [
        f"{lost} of the optimizer's {2 * len(mu) + 1} moments and counts start at zero"
    ]
    assert int(moments(again, "count")[""]) == 4


def test_a_linear_probe_goes_on_as_a_whole():
    state, notes = carry_over(trained({"optim.tune": "head"}), {})
    assert len(notes) == 1 and "start at zero" in notes[0]
    assert moments(state, "mu")["head/kernel"].all()
    assert not moments(state, "mu")["stem/proj/kernel"].any()


def test_moments_of_another_type_are_converted():
    before = trained({})
    state, notes = carry_over(before, {"optim.moment_dtype": "bfloat16"})
    assert notes == ["moments are converted to bfloat16"]
    for name, value in moments(state, "mu").items():
        np.testing.assert_array_equal(value, moments(before, "mu")[name].astype(value.dtype))
    chex.assert_trees_all_equal(moments(state, "nu"), moments(before, "nu"))


# --- The run.


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A run that was stopped at step 2."""
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    run = alone({})
    stored.write(folder, run.config, {})
    checkpoints = Checkpoints(folder / "checkpoints", 2)
    checkpoints.save(2, trained({}, step=2).to_items(), run.fingerprint)
    checkpoints.close()
    return folder


def restore(folder, overrides, allowed=("optim",)):
    """Returns the state and the notes."""
    run = open_run(make(overrides))
    with jax.set_mesh(run.mesh):
        state, notes = resume.restore(run, Checkpoints(folder / "checkpoints", 2), allowed)
    layouts = jax.tree.map(lambda leaf, shape: leaf.sharding == shape.sharding, state, run.shapes)
    assert jax.tree.all(layouts)
    return jax.device_get(state), notes


def test_other_devices_and_another_optimizer_at_once(started):
    before, _ = restore(started, {})
    mesh = {"mesh.fsdp": "2", "mesh.tensor": "2"}
    after, _ = restore(started, {**mesh, "optim.clip_norm": "1", **AVERAGE})
    chex.assert_trees_all_equal(after.params, before.params)
    chex.assert_trees_all_equal(moments(after, "nu"), moments(before, "nu"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model.depth": "2"}, "model.depth"),
        ({"model.depth": "2", "model.block.drop_path": "0.1"}, "model.depth"),
        ({"model.pool": "gap"}, "model.pool.name"),
        ({"data.image_size": "16,8"}, "data.image_size"),
        (
            {"data.channels": "3", "data.mean": "0,0,0", "data.std": "1,1,1"},
            "data.channels",
        ),
        ({"data.synthetic.num_classes": "7", "model.num_classes": "7"}, "model.num_classes"),
        ({"model.stem": "conv", "model.stem.norm": "batch"}, "model.stem.name"),
    ],
)
@pytest.mark.parametrize("allowed", [(), ("model", "data")])
def test_another_model_is_refused_by_its_key_whatever_is_allowed(started, change, key, allowed):
    with pytest.raises(ConfigError, match=rf"^config\.{key}: this run was started with") as error:
        restore(started, change, allowed)
    assert "allow_config_change" not in str(error.value)
    assert seals.sealed_steps(started / "checkpoints") == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"model.block.drop_path": "0.1", "model.dropout": "0.1"},
        {"model.mlp.activation": "relu"},
        {"objective.loss": "sigmoid", "objective.label_smoothing": "0.1"},
        {"seed": "7", "data.flip": "true", "mix.mixup": "1"},
        {"data.train_split": "train[:32]"},
    ],
    ids=str,
)
def test_what_leaves_the_parameters_alone_may_be_allowed(started, change):
    before, _ = restore(started, {})
    with pytest.raises(ConfigError, match="allow_config_change"):
        restore(started, change, ())
    state, notes = restore(started, change, ("model", "objective", "seed", "data", "mix"))
    assert notes == []
    chex.assert_trees_all_equal(state, before)


def test_another_batch_size_and_source_model_are_said(started):
    _, notes = restore(started, {"batch_size": "32"}, ("batch_size",))
    assert len(notes) == 1
    assert notes[0].startswith(
        "config.batch_size was 16 and is 32: earlier steps count as steps of 32 images"
    )
    with pytest.raises(ConfigError, match=r"^config\.init_from: this run was started with ''"):
        restore(started, {"init_from": str(started)}, ())
    _, notes = restore(started, {"init_from": str(started)}, ("init_from",))
    assert notes == ["config.init_from has no effect: the run resumes from its own checkpoint"]


@pytest.mark.parametrize("file", ["finetune_folder.py", "digits.py:transfer"])
def test_a_source_model_that_is_gone_is_not_missed(file, tmp_path):
    """Where there is a checkpoint, the run takes the model from its own config.json."""
    source = str(tmp_path / "gone")
    run = open_run(dataclasses.replace(make({}), init_from=source), jax.devices()[:1])
    folder = epath.Path(tmp_path) / "run"
    stored.write(folder, run.config, {})
    flags = {"init_from": source, "optim.warmup_steps": "0"}
    with pytest.raises(InputMissingError, match=r"^config\.init_from: .*/gone/config\.json"):
        train_lib._resolve(str(ROOT / "configs" / file), flags, folder)
    checkpoints = Checkpoints(folder / "checkpoints", 2)
    checkpoints.save(2, trained({}).to_items(), run.fingerprint)
    checkpoints.close()
    found = train_lib._resolve(str(ROOT / "configs" / file), flags, folder).config
    assert (found.init_from, found.model["width"]) == (source, 32)


def test_the_run_goes_on_with_what_the_refusal_offers(started, tmp_path, capsys):
    """By the very flag; then it is the run that it became, and needs no flag."""
    folder = tmp_path / "run"
    shutil.copytree(started, folder)
    change = {"optim.clip_norm": "1", "optim.ema_decay": "0.5", "total_steps": "3", **FREEZE}
    config = resolved(make(change))
    with pytest.raises(ConfigError, match=r"--allow_config_change=optim\.clip_norm$"):
        train_lib.train(config, epath.Path(folder), ("optim.ema_decay", "optim.freeze", "total"))
    capsys.readouterr()
    train_lib.train(config, epath.Path(folder), ("optim", "total_steps"))
    said = capsys.readouterr().out
    assert "resume    from the checkpoint of step 2" in said
    assert "          the moving average starts from the parameters of step 2\n" in said
    assert "val_raw" in said or "test_raw" in said
    assert not list((folder / "checkpoints").glob("damaged*"))
    train_lib.train(config, epath.Path(folder))
    assert "finished  this run is complete" in capsys.readouterr().out


def test_variables_are_evaluated_where_a_checkpoint_has_no_average(started, tmp_path, capsys):
    folder = epath.Path(shutil.copytree(started, tmp_path / "run"))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"ema_decay": 0.0', '"ema_decay": 0.5'))
    config = make(AVERAGE)
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        found = pretrained.restore(folder, "", config, run.mesh)
        state, _ = restore(folder, {})
    chex.assert_trees_all_equal(jax.device_get(found.variables["params"]), state.params)
    assert "step 2 has no moving average" in capsys.readouterr().out
