"""Runs with stacks: resuming to the bit, with and without them; and what reads their folders."""

import dataclasses
import itertools

import chex
import jax
import numpy as np
import pytest
from conftest import TINY, read_rows, resolved, restore_state
from etils import epath
from test_objectives import train_killed

from vit_jax import config as config_lib
from vit_jax import models, predict
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained, pretrained
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.cluster import sharding
from vit_jax.conversion.exporting import export_weights
from vit_jax.data import loader
from vit_jax.evaluation.loop import Evaluation
from vit_jax.training import resume, state, warm_start
from vit_jax.training.run import open_run
from vit_jax.training.stacked_state import unstack_state
from vit_jax.training.step import make_train_step

RUN = {
    **TINY,
    "model.depth": "4",
    "model.dropout": "0.1",
    "model.block.drop_path": "0.1",
    "optim.name": "lamb",
    "optim.eps": "1e-2",  # the biases of keys have no gradient but rounding errors
    "optim.schedule": "constant",
    "optim.layer_decay": "0.8",
    "optim.weight_decay": "0.1",
    "optim.ema_decay": "0.5",
    "optim.freeze": "'blocks_0/.*'",
    "checkpoint.every_steps": "2",
    "eval.every_steps": "2",
    "data.val_split": "test[:9]",
}


def make(scan, **overrides):
    tree = config_lib.to_config_dict(config_lib.Config())
    given = {**RUN, "model.scan": str(scan).lower(), **overrides}
    given = {key: value for key, value in given.items() if value is not None}
    return config_lib.resolve(tree, given).config


def train(config, folder, allowed=()):
    return train_lib.train(resolved(config), epath.Path(folder), allowed)


def saved_state(config, folder):
    """Returns the arrays of the newest checkpoint, as they are saved."""
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        found = restore_state(folder, dataclasses.replace(run, shapes=run.saved_shapes))
    return jax.device_get(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with stacks, and its results."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(make(scan=True), folder)


def test_a_run_is_that_of_its_blocks(trained, tmp_path):
    folder, results = trained
    plain = train(make(scan=False), tmp_path)
    left, right = saved_state(make(scan=True), folder), saved_state(make(scan=False), tmp_path)
    chex.assert_trees_all_equal_shapes_and_dtypes(left, right)
    chex.assert_trees_all_close(left, right, rtol=1e-5, atol=1e-6)
    assert results["parameters"] == plain["parameters"]
    assert results["eval"].keys() == plain["eval"].keys()


@pytest.mark.parametrize("mesh", [{}, {"mesh.fsdp": "2", "mesh.tensor": "2"}], ids=str)
def test_a_killed_run_resumes_to_the_bit(trained, tmp_path, monkeypatch, mesh):
    folder, config = trained[0], make(scan=True, **mesh)
    if mesh:
        folder = tmp_path / "whole"
        train(config, folder)
    train_killed(config, tmp_path / "killed", monkeypatch, 3)
    train(config, tmp_path / "killed")
    left, right = (saved_state(config, f) for f in (folder, tmp_path / "killed"))
    chex.assert_trees_all_equal(left, right)
    assert read_rows(folder) == read_rows(tmp_path / "killed")


SMALL_SWIN = {
    "model.name": "swin_t_w7",
    "model.depths": "4",
    "model.num_heads": "2",
    "model.mlp_ratio": "1",
    "model.stem.patch": "2,2",
    "model.attention.window": "2,2",
    "model.mlp_dim": None,
    "model.depth": None,
}
STEPS = {
    "accum, SAM and clipping": {
        "optim.accum_steps": "2",
        "optim.sam_radius": "0.1",
        "optim.clip_norm": "0.5",
    },
    "frozen blocks": {"optim.freeze": "'blocks_[01]/.*', 'stem/.*'"},
    "swin": {**SMALL_SWIN, "optim.freeze": "'stem/.*'", "model.remat": "block"},
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_are_those_of_blocks(case):
    found = {}
    for scan in (True, False):
        run = open_run(make(scan, **STEPS[case]), jax.devices()[:1])
        assert bool(run.stacks) == scan
        with jax.set_mesh(run.mesh):
            now = state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes, None, run.stacks)
            batches = loader.train_batches(run.splits["train"], run.config.data, 16, seed=0)
            step = make_train_step(run)
            for batch in itertools.islice(batches, 2):
                now, metrics = step(now, sharding.to_global(batch, run.mesh), {})
        found[scan] = jax.device_get((unstack_state(now, run.stacks), metrics))
    chex.assert_trees_all_close(found[True], found[False], rtol=1e-5, atol=1e-6)


def restore(config, folder, allowed=()):
    """Returns the run, its state as it goes on from a folder, and the notes."""
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        current, notes = resume.restore(run, Checkpoints(folder / "checkpoints", 2), allowed)
    chex.assert_trees_all_equal_shapes_and_dtypes(current, run.shapes)
    for leaf, shape in zip(jax.tree.leaves(current), jax.tree.leaves(run.shapes), strict=True):
        assert leaf.sharding == shape.sharding
    return run, current, notes


@pytest.mark.parametrize("before", [True, False])
def test_a_checkpoint_goes_both_ways(trained, tmp_path, before):
    folder = epath.Path(trained[0])
    if not before:
        folder = epath.Path(tmp_path)
        train(make(scan=False, total_steps="2"), folder)
    stored = saved_state(make(before, total_steps="2" if not before else "4"), folder)
    allowed = ("total_steps",)
    run, current, notes = restore(make(not before), folder, allowed)
    said = (
        f"config.model.scan was {before} and is {not before}: the model is the same, up to rounding"
    )
    assert notes == [said]
    chex.assert_trees_all_equal(jax.device_get(unstack_state(current, run.stacks)), stored)
    _, _, notes = restore(make(before), folder, allowed)
    assert notes == []


def test_a_run_goes_on_without_stacks_and_with_them_again(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    train(make(scan=True, total_steps="2"), folder)
    train(make(scan=False, total_steps="3"), folder, ("total_steps",))
    assert "config.model.scan was True and is False" in capsys.readouterr().out
    train(make(scan=True), folder, ("total_steps",))
    said = capsys.readouterr().out
    assert "resume    from the checkpoint of step 3" in said
    config = make(scan=True)
    left, right = saved_state(config, trained[0]), saved_state(config, folder)
    chex.assert_trees_all_close(left, right, rtol=1e-5, atol=1e-6)


def test_other_optimizers_and_frozen_blocks_move_between_stacks(trained):
    """The stacks before are not those of now; moments are matched by block."""
    folder = epath.Path(trained[0])
    change = {"optim.freeze": "'blocks_[23]/.*'", "optim.clip_norm": "1"}
    run, current, notes = restore(make(scan=True, **change), folder, ("optim",))
    assert list(run.stacks) == ["blocks_0_to_blocks_1", "blocks_2_to_blocks_3"]
    plain, expected, said = restore(make(scan=False, **change), folder, ("optim",))
    assert not plain.stacks
    assert set(notes) == {note for note in said if "model.scan" not in note}
    assert any("moments are dropped" in note for note in notes)
    found = unstack_state(current, run.stacks)
    chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(expected))


# --- What reads the folder of a run with stacks.


def test_a_folder_is_read_by_block(trained, tmp_path):
    folder, _ = trained
    opened = from_pretrained(str(folder))
    assert opened.model.scan
    assert {f"blocks_{i}" for i in range(4)} < opened.variables["params"].keys()
    average = saved_state(make(scan=True), folder).ema
    chex.assert_trees_all_equal(jax.device_get(opened.variables), average)
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), np.uint8)
    plain = models.create(**make(scan=False).model)
    inputs = opened.preprocess(list(images))
    logits = models.forward(opened.model, opened.variables, inputs).logits
    expected = models.forward(plain, opened.variables, inputs).logits
    np.testing.assert_array_equal(logits, expected)
    found = models.features(opened.model, opened.variables, inputs, ["blocks_3/attn"])
    assert found["blocks_3/attn"].shape == (3, 5, 16)
    (top, *_) = predict.Predictor(folder)(list(images), topk=1)[0]
    np.testing.assert_allclose(top.probability, jax.nn.softmax(expected[0]).max(), rtol=1e-5)
    export_weights(folder, "timm", tmp_path / "timm")
    assert any((tmp_path / "timm").iterdir())


def test_an_evaluation_is_that_of_the_run(trained):
    run = open_run(make(scan=True))
    with jax.set_mesh(run.mesh):
        opened = pretrained.restore(epath.Path(trained[0]), "", run.config, run.mesh)
        evaluation = Evaluation(run.evaluators, run.config, run.mesh)
        found = evaluation(opened.variables, run.splits["test"], "test")["test"]
    assert found["top1"] == trained[1]["eval"]["test"]["top1"]
    np.testing.assert_allclose(found["loss"], trained[1]["eval"]["test"]["loss"], rtol=1e-6)


@pytest.mark.parametrize("scan", [True, False])
def test_a_run_starts_from_the_weights_of_blocks(trained, scan):
    run = open_run(make(scan, init_from=str(trained[0])))
    with jax.set_mesh(run.mesh):
        given, notes = warm_start.load_variables(run)
        assert "params/blocks_3/mlp/fc1/kernel" in given
        first = state.init(run.model, run.tx, (8, 8, 1), 0, run.shapes, given, run.stacks)
    count = len(jax.tree.leaves(run.saved_shapes.params))
    assert notes[0].startswith(f"{count} of {count} parameters from")
    params = unstack_state(first, run.stacks).params
    expected = saved_state(make(scan=True), trained[0]).ema["params"]
    chex.assert_trees_all_equal(jax.device_get(params), expected)


def test_a_teacher_may_have_been_trained_with_stacks(trained):
    settings = {"objective": "distillation", "objective.teacher": str(trained[0])}
    run = open_run(make(scan=True, **settings))
    with jax.set_mesh(run.mesh):
        frozen = run.objective.frozen(run.mesh, run.splits["train"])
    expected = saved_state(make(scan=True), trained[0]).ema
    chex.assert_trees_all_equal(jax.device_get(frozen), expected)
