"""Collections besides the parameters: statistics of batches, through training and after it."""

import dataclasses
import json
import shutil

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, read_rows, resolved, restore_state
from etils import epath
from test_objectives import train_killed
from test_train import start, steps

from vit_jax import config as config_lib
from vit_jax import models, predict
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained, pretrained, store
from vit_jax.conversion.exporting import export_weights
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import CheckpointError, ConfigError, DataError
from vit_jax.evaluation import losses
from vit_jax.training import warm_start
from vit_jax.training.run import open_run

NORM = ("batch_stats", "stem", "norm_0")
STEM = {
    "model.stem": "hmlp",
    "model.stem.norm": "batch",
    "optim.name": "sgd",
    "optim.learning_rate": "0.1",
}


def statistics(collections):
    """Returns the moving mean and variance."""
    for key in NORM:
        collections = collections[key]
    return np.asarray(collections["mean"]), np.asarray(collections["var"])


def embed(run, params, images):
    """Returns the pieces of 2x2 pixels before the first BatchNorm, (rows, d)."""
    layer = params["stem"]["conv_0"]
    conv = nn.Conv(len(layer["bias"]), (2, 2), strides=(2, 2))
    pieces = conv.apply({"params": layer}, images)
    return np.asarray(pieces, np.float64).reshape(-1, pieces.shape[-1])


def follow(old, patches):
    """Returns the statistics after those of a batch."""
    mean, var = old
    return 0.9 * mean + 0.1 * patches.mean(0), 0.9 * var + 0.1 * patches.var(0)


def test_a_model_has_the_collections_of_its_parts(tiny_config):
    run, first, _ = start(tiny_config(STEM))
    mean, var = statistics(first.collections)
    assert mean.shape == (4,) and not mean.any() and (var == 1).all()
    assert run.shapes.collections.keys() == {"batch_stats"}
    assert run.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(first.params))
    _, plain, _ = start(tiny_config())
    assert plain.collections == {}
    with_layer_norm = models.create(**tiny_config({**STEM, "model.stem.norm": "layer"}).model)
    counts = [models.profile(m, (8, 8)).parameters for m in (run.model, with_layer_norm)]
    assert counts[0] == counts[1]  # scale and bias both; statistics are no parameters


@pytest.mark.parametrize("stem", ["hmlp", "conv"])
def test_statistics_are_those_of_the_global_batch(tiny_config, stem):
    base = {**STEM, "model.stem": stem, "optim.ema_decay": "0.9"}
    alone, history_alone = steps(tiny_config({**base, "mesh.data": "1"}), 4, jax.devices()[:1])
    for mesh in ({}, {"mesh.fsdp": "2", "mesh.tensor": "2"}):
        together, history = steps(tiny_config({**base, **mesh}), 4)
        chex.assert_trees_all_close(alone.collections, together.collections, rtol=1e-6, atol=1e-6)
        chex.assert_trees_all_close(alone.ema, together.ema, rtol=1e-6, atol=1e-6)
        left, right = ([row["loss"] for row in rows] for rows in (history_alone, history))
        np.testing.assert_allclose(left, right, rtol=1e-6)


@pytest.mark.parametrize("accum", [1, 2])
def test_micro_batches_chain(tiny_config, accum):
    """Against the statistics by hand, one micro-batch after another."""
    config = tiny_config({**STEM, "optim.accum_steps": str(accum)})
    run, first, batches = start(config)
    batch = {key: jnp.asarray(rows) for key, rows in next(batches).items()}
    images = run.objective.prepare(batch, jax.random.key(0))["image"]
    expected = statistics(first.collections)
    for i in range(accum):
        expected = follow(expected, embed(run, first.params, images[i::accum]))
    after, _ = steps(config, 1)
    np.testing.assert_allclose(statistics(after.collections), expected, rtol=1e-5, atol=1e-6)


def test_only_the_first_pass_of_sharpness_aware_steps_counts(tiny_config):
    plain, _ = steps(tiny_config(STEM), 1)
    sharp, _ = steps(tiny_config({**STEM, "optim.sam_radius": "5"}), 1)
    chex.assert_trees_all_close(plain.collections, sharp.collections, rtol=1e-6, atol=1e-7)
    before, after = (s.params["head"]["kernel"] for s in (plain, sharp))
    assert not np.allclose(before, after, rtol=1e-3)


def test_an_average_has_statistics_of_its_own(tiny_config):
    config = tiny_config({**STEM, "optim.ema_decay": "0.5"})
    _, first, _ = start(config)
    start_mean, start_var = statistics(first.ema)
    after, _ = steps(config, 1)
    mean, var = statistics(after.collections)
    average = statistics(after.ema)
    np.testing.assert_allclose(average[0], 0.5 * start_mean + 0.5 * mean, rtol=1e-6)
    np.testing.assert_allclose(average[1], 0.5 * start_var + 0.5 * var, rtol=1e-6)


def test_a_step_that_is_skipped_leaves_them(tiny_config, monkeypatch):
    config = tiny_config({**STEM, "optim.ema_decay": "0.5"})
    _, first, _ = start(config)
    before = jax.device_get(first)
    monkeypatch.setitem(losses.LOSSES, "softmax", lambda logits, targets: logits[:, 0] + jnp.nan)
    after, _ = steps(config, 1)
    assert int(after.skipped) == 1
    chex.assert_trees_all_equal(after.collections, before.collections)
    chex.assert_trees_all_equal(after.ema, before.ema)


RUN = {
    **STEM,
    "total_steps": "6",
    "model.dropout": "0.1",
    "data.val_split": "test[:9]",
    "eval.every_steps": "2",
    "checkpoint.every_steps": "2",
    "optim.ema_decay": "0.5",
}


def train(config, workdir):
    return train_lib.train(resolved(config), epath.Path(workdir))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, its results and its last state."""
    workdir = tmp_path_factory.mktemp("trained")
    tree = config_lib.to_config_dict(config_lib.Config())
    config = config_lib.resolve(tree, {**TINY, **RUN}).config
    results = train(config, workdir)
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        return workdir, results, jax.device_get(restore_state(workdir, run))


def test_a_killed_run_resumes_to_the_bit(trained, tiny_config, tmp_path, monkeypatch):
    workdir, _, whole = trained
    config = tiny_config(RUN)
    for at in (3, 5):
        train_killed(config, tmp_path, monkeypatch, at)
    train(config, tmp_path)
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        chex.assert_trees_all_equal(jax.device_get(restore_state(tmp_path, run)), whole)
    assert read_rows(workdir) == read_rows(tmp_path)


def pixels(tiny_config):
    """Returns the images of the test split, and their labels."""
    source = open_split(tiny_config().data, "test_split")
    records = [source[i] for i in range(len(source))]
    return np.stack([r["image"] for r in records]), np.array([r["label"] for r in records])


@pytest.mark.parametrize("raw", [False, True])
def test_an_evaluation_takes_the_moving_statistics(trained, tiny_config, raw):
    workdir, results, final = trained
    images, labels = pixels(tiny_config)
    config = config_lib.read_config(epath.Path(workdir))
    model = models.create(**config.model)
    variables = jax.tree.map(jnp.asarray, final.variables if raw else final.ema)
    normalized = (jnp.asarray(images, jnp.float32) / 255 - 0.5) / 0.25
    logits = models.forward(model, variables, normalized).logits
    expected = losses.softmax(logits, jax.nn.one_hot(labels, 10)).mean()
    found = results["eval"]["test_raw" if raw else "test"]["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        weights = "raw" if raw else "ema"
        opened = pretrained.restore(epath.Path(workdir), "", config, run.mesh, weights=weights)
    chex.assert_trees_all_equal(jax.device_get(opened.variables), variables)


def test_a_pretrained_model_and_predictions_take_the_moving_statistics(trained, tiny_config):
    workdir, _, final = trained
    images, _ = pixels(tiny_config)
    opened = from_pretrained(str(workdir))
    chex.assert_trees_all_equal(jax.device_get(opened.variables), final.ema)
    logits = models.forward(opened.model, opened.variables, opened.preprocess(list(images))).logits
    predictions = predict.Predictor(workdir)(list(images), topk=1)
    expected = np.asarray(jax.nn.softmax(logits)).max(axis=1)
    np.testing.assert_allclose([p[0].probability for p in predictions], expected, rtol=1e-5)
    alone = models.forward(opened.model, opened.variables, opened.preprocess(list(images[:1])))
    np.testing.assert_allclose(alone.logits[0], logits[0], rtol=1e-5, atol=1e-6)


def start_from(source, tiny_config, **more):
    run = open_run(tiny_config({**STEM, "init_from": str(source), **more}))
    with jax.set_mesh(run.mesh):
        return run, *warm_start.load_variables(run)


def test_a_run_starts_with_the_statistics_of_its_source_model(trained, tiny_config):
    more = {"model.num_classes": "7", "data.synthetic.num_classes": "7"}
    _, given, notes = start_from(trained[0], tiny_config, **more)
    for found, expected in zip(
        (given["batch_stats/stem/norm_0/mean"], given["batch_stats/stem/norm_0/var"]),
        statistics(trained[2].ema),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    assert "params/head/bias" not in given and any("head new" in note for note in notes)


def test_a_source_model_without_them_is_refused_by_name(
    trained, tiny_config, tmp_path, monkeypatch
):
    real = pretrained.restore

    def without(*args, **kwargs):
        opened = real(*args, **kwargs)
        params = {"params": opened.variables["params"]}
        return dataclasses.replace(opened, variables=params)

    monkeypatch.setattr(pretrained, "restore", without)
    message = r"^config\.init_from: .*, batch_stats: .*stem/norm_0/mean \(4\) is missing"
    with pytest.raises(ConfigError, match=message):
        start_from(trained[0], tiny_config)


def test_a_checkpoint_without_them_is_refused_by_name(trained, tiny_config, tmp_path):
    workdir, _, final = trained
    config = config_lib.read_config(epath.Path(workdir))
    params = {"params": final.params}
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    classes = {"train_split": {"classes": [f"class_{i}" for i in range(10)]}}
    store.write_variables(epath.Path(tmp_path), params, classes, config_lib.as_dict(config))
    mesh = open_run(config).mesh
    with jax.set_mesh(mesh), pytest.raises(CheckpointError, match=r"has no batch_stats \(coll"):
        pretrained.restore(epath.Path(tmp_path), "", config, mesh, weights="raw")


def test_a_teacher_sees_with_its_moving_statistics(trained, tiny_config):
    workdir, _, final = trained
    run = open_run(tiny_config({"objective": "distillation", "objective.teacher": str(workdir)}))
    with jax.set_mesh(run.mesh):
        frozen = run.objective.frozen(run.mesh, run.splits["train"])
        images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
        found = run.objective.opened(frozen, images)
    chex.assert_trees_all_equal(jax.device_get(frozen), final.ema)
    average = jax.tree.map(jnp.asarray, final.ema)
    expected = models.forward(run.objective.opened.model, average, images).logits
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_no_library_takes_a_model_with_statistics(trained, tmp_path):
    with pytest.raises(DataError, match="has batch_stats, which files of timm cannot store"):
        export_weights(trained[0], "timm", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


def test_statistics_of_frozen_layers_stay(tiny_config):
    for more, stays in (
        ({"optim.tune": "head"}, True),
        ({"optim.freeze": "stem/.*"}, True),
        ({"optim.freeze": "stem/norm_0/bias"}, False),
    ):
        config = tiny_config({**STEM, **more})
        _, first, _ = start(config)
        after, _ = steps(config, 2)
        equal = [
            np.array_equal(a, b)
            for a, b in zip(
                statistics(first.collections), statistics(after.collections), strict=True
            )
        ]
        assert equal == [stays, stays], more


def test_a_model_without_them_is_another_model(trained, tiny_config, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    message = "model.stem.norm is .*, but the checkpoint of step .* was trained with"
    tree = json.loads((workdir / "config.json").read_text())
    tree["model"]["stem"]["norm"] = "layer"
    plain = config_lib.resolve(tree).config
    run = open_run(plain)
    (workdir / "config.json").write_text(json.dumps(tree))
    with jax.set_mesh(run.mesh), pytest.raises(CheckpointError, match=message):
        pretrained.restore(epath.Path(workdir), "", plain, run.mesh)
    message = "has .*collections"
    with jax.set_mesh(run.mesh), pytest.raises(CheckpointError, match=message):
        pretrained.restore(epath.Path(workdir), "", plain, run.mesh, allowed=["model.stem.norm"])
    with pytest.raises(ConfigError, match="this run was started with 'batch', not 'layer'"):
        train_lib.train(resolved(plain), epath.Path(workdir), ("model.stem.norm",))
