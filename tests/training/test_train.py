"""The training step and the loop: equal losses on any devices; resuming continues the same run."""

import itertools
import json
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import read_rows, resolved, restore_state
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax import train as train_lib
from vit_jax.checkpoints import pretrained, seals
from vit_jax.checkpoints.reading import load_variables
from vit_jax.cluster import sharding
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.data import loader
from vit_jax.errors import ConfigError, DataError, DivergedError, Interrupted
from vit_jax.evaluation import losses
from vit_jax.evaluation.statistics.intervals import wilson
from vit_jax.training import loop, state
from vit_jax.training.ledger import Ledger
from vit_jax.training.run import open_run
from vit_jax.training.step import make_train_step


def start(config, devices=None):
    """Returns the run, its state at step 0, and its batches."""
    run = open_run(config, devices)
    shape = config.data.image_shape
    with jax.set_mesh(run.mesh):
        first = state.init(run.model, run.tx, shape, config.seed, run.shapes)
    batches = loader.train_batches(
        run.splits["train"], config.data, config.batch_size, seed=config.seed
    )
    return run, first, batches


def steps(config, num, devices=None, transform=lambda batch: batch):
    """Returns the state after a number of steps, and the metrics of each."""
    run, current, batches = start(config, devices)
    history = []
    with jax.set_mesh(run.mesh):
        step = make_train_step(run)
        for batch in itertools.islice(batches, num):
            current, metrics = step(current, sharding.to_global(transform(batch), run.mesh), {})
            history.append(jax.device_get(metrics))
    return jax.device_get(current), history


def run_here(config, workdir, **kwargs):
    return train_lib.train(resolved(config), epath.Path(workdir), **kwargs)


DROPOUT = {"model.dropout": "0.2", "model.attention.dropout": "0.2", "model.block.drop_path": "0.2"}


def test_eight_devices_give_the_losses_of_one(tiny_config):
    base = {**DROPOUT, "model.depth": "2", "optim.clip_norm": "1.0", "optim.name": "sgd"}
    base["optim.learning_rate"] = "0.1"
    _, alone = steps(tiny_config({**base, "mesh.data": "1"}), 10, jax.devices()[:1])
    for mesh in ({}, {"mesh.fsdp": "2", "mesh.tensor": "2"}):
        _, together = steps(tiny_config({**base, **mesh}), 10)
        for key, rtol in (("loss", 1e-6), ("grad_norm", 1e-5), ("param_norm", 1e-6)):
            left, right = ([metrics[key] for metrics in history] for history in (alone, together))
            np.testing.assert_allclose(left, right, rtol=rtol, err_msg=f"{key} {mesh}")
    assert alone[-1]["loss"] < alone[0]["loss"]


def test_parameters_and_moments_are_sharded_over_the_mesh(tiny_config):
    run, first, _ = start(tiny_config({"mesh.fsdp": "2", "mesh.tensor": "2"}))
    kernel = first.params["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.spec == jax.P("fsdp", "tensor")
    moments = run.tx.init(first.params)
    layouts = [leaf.sharding for leaf in jax.tree.leaves(run.shapes.opt_state)]
    assert len(layouts) == len(jax.tree.leaves(moments))
    split = [s for s in layouts if s.spec == kernel.sharding.spec]
    assert len(split) == 2  # both Adam moments of that one kernel


def test_accumulation_equals_the_big_batch(tiny_config):
    base = {"optim.name": "sgd", "optim.learning_rate": "0.1", "optim.ema_decay": "0.9"}
    big, history_big = steps(tiny_config(base), 3)
    small, history = steps(tiny_config({**base, "optim.accum_steps": "2"}), 3)
    chex.assert_trees_all_close(big.params, small.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(big.ema, small.ema, rtol=1e-5, atol=1e-6)
    assert int(small.step) == 3
    for a, b in zip(history_big, history, strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_step_is_the_update_written_by_hand(tiny_config):
    config = tiny_config(
        {"optim.name": "sgd", "optim.learning_rate": "0.1", "objective.loss": "sigmoid"}
    )
    run, first, batches = start(config)
    batch = next(batches)
    images = (batch["image"] / np.float32(255) - np.float32(0.5)) / np.float32(0.25)

    def loss(params):
        logits = run.model.apply({"params": params}, jnp.asarray(images), train=False).logits
        return jnp.mean(losses.sigmoid(logits, jax.nn.one_hot(batch["label"], 10)))

    value, grads = loss(first.params), jax.jit(jax.grad(loss))(first.params)
    rate = float(run.schedule(0))
    expected = jax.tree.map(lambda p, g: p - rate * g, first.params, grads)
    after, history = steps(config, 1)
    np.testing.assert_allclose(history[0]["loss"], value, rtol=1e-6)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)


def test_ema_follows_the_parameters(tiny_config):
    config = tiny_config({"optim.ema_decay": "0.5"})
    _, first, _ = start(config)
    before = jax.device_get(first.params)
    after, _ = steps(config, 1)
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, before, after.params)
    chex.assert_trees_all_close(after.ema["params"], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_stay_bit_identical(tiny_config, optimizer):
    config = tiny_config(
        {
            "optim.name": optimizer,
            "optim.weight_decay": "0.1",
            "optim.clip_norm": "1.0",
            "optim.freeze": "'stem/.*', 'blocks_0/attn/.*'",
        }
    )
    _, first, _ = start(config)
    before = jax.device_get(first.params)
    after, _ = steps(config, 3)
    chex.assert_trees_all_equal(after.params["stem"], before["stem"])
    chex.assert_trees_all_equal(after.params["blocks_0"]["attn"], before["blocks_0"]["attn"])
    assert not np.array_equal(after.params["head"]["kernel"], before["head"]["kernel"])
    assert not np.array_equal(
        after.params["blocks_0"]["mlp"]["fc1"]["kernel"],
        before["blocks_0"]["mlp"]["fc1"]["kernel"],
    )


def test_a_step_that_is_not_finite_is_skipped_and_counted(tiny_config, monkeypatch):
    config = tiny_config({"optim.ema_decay": "0.9"})
    real = losses.LOSSES["softmax"]

    def poisoned(logits, targets):
        bad = jnp.any(targets[:, 3] > 0.5) & (targets.sum() > 0)
        return jnp.where(bad, jnp.nan, real(logits, targets))

    monkeypatch.setitem(losses.LOSSES, "softmax", poisoned)

    def spare(batch):
        return {**batch, "label": np.where(batch["label"] == 3, 4, batch["label"])}

    good, _ = steps(config, 1, transform=spare)
    calls = itertools.count()

    def only_first_is_good(batch):
        return (
            spare(batch)
            if next(calls) == 0
            else {**batch, "label": np.full_like(batch["label"], 3)}
        )

    after, history = steps(config, 3, transform=only_first_is_good)
    assert [int(metrics["skipped"]) for metrics in history] == [0, 1, 2]
    assert (int(after.step), int(after.skipped)) == (3, 2)
    for part in ("params", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(good, part))


def test_a_run_that_diverges_stops_with_70_and_saves_nothing_bad(tiny_config, tmp_path):
    config = tiny_config(
        {"optim.learning_rate": "1e30", "total_steps": "30", "max_skipped": "3"}
        | {"checkpoint.every_steps": "1", "optim.name": "sgd"}
    )
    with pytest.raises(DivergedError, match="3 steps in a row were not finite") as error:
        run_here(config, tmp_path)
    assert error.value.exit_code == 70
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        restored = restore_state(tmp_path, run)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.params))


def test_the_step_is_compiled_once(tiny_config):
    run, current, batches = start(tiny_config())
    with jax.set_mesh(run.mesh):
        step = make_train_step(run)
        for batch in itertools.islice(batches, 3):
            current, _ = step(current, sharding.to_global(batch, run.mesh), {})
    assert step._cache_size() == 1


def test_the_loop_makes_no_implicit_transfer(tiny_config):
    run, current, batches = start(tiny_config())
    with jax.set_mesh(run.mesh):
        step = make_train_step(run)
        ready = [sharding.to_global(next(batches), run.mesh) for _ in range(3)]
        current, _ = step(current, ready[0], {})
        with jax.transfer_guard("disallow"):
            for batch in ready[1:]:
                current, _ = step(current, batch, {})
    assert int(current.step) == 3


def everything(workdir, config):
    """Returns the arrays of the newest checkpoint and the metrics of each step."""
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        final = restore_state(workdir, run)
    return jax.device_get(final), read_rows(workdir)


FULL = {
    **DROPOUT,
    "total_steps": "6",
    "data.val_split": "test[:9]",
    "eval.every_steps": "2",
    "checkpoint.every_steps": "2",
    "optim.ema_decay": "0.9",
    "data.affine.degrees": "20.0",
}


def test_a_resumed_run_equals_the_uninterrupted_run(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(FULL)
    run_here(config, tmp_path / "whole")
    for stop_at in (1, 3):
        calls = itertools.count(1)
        real = loader.train_batches

        def counting(*args, _real=real, _calls=calls, _stop_at=stop_at, **kwargs):
            for batch in _real(*args, **kwargs):
                if next(_calls) == _stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        monkeypatch.setattr(loader, "train_batches", counting)
        with pytest.raises(Interrupted) as stopped:
            run_here(config, tmp_path / "parts")
        monkeypatch.setattr(loader, "train_batches", real)
        assert stopped.value.exit_code == 75
    run_here(config, tmp_path / "parts")
    whole, rows = everything(tmp_path / "whole", config)
    parts, rows_parts = everything(tmp_path / "parts", config)
    chex.assert_trees_all_equal(whole, parts)
    assert rows == rows_parts


def test_a_finished_run_says_so_and_does_nothing(tiny_config, tmp_path, capsys):
    config = tiny_config()
    first = run_here(config, tmp_path)
    before = (tmp_path / "results.json").stat().st_mtime_ns
    assert run_here(config, tmp_path) == first
    assert (tmp_path / "results.json").stat().st_mtime_ns == before
    assert "finished  this run is complete: step 4 of 4" in capsys.readouterr().out


def test_results_count_every_image_and_name_the_best(tiny_config, tmp_path):
    config = tiny_config(FULL)
    results = run_here(config, tmp_path)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["step"] == 6
    assert set(results["eval"]) == {"val", "val_raw", "test", "test_raw"}
    assert results["eval"]["val"]["count"] == 9
    assert results["eval"]["test"]["count"] == 21
    assert set(results["eval"]["test"]) == {"top1", "top5", "loss", "count", "skipped"}
    assert results["intervals"].keys() == results["eval"].keys()
    for name, found in results["intervals"].items():
        result = results["eval"][name]
        for key in ("top1", "top5"):
            interval = wilson(round(result[key] * result["count"]), result["count"])
            assert found[key] == list(interval)
    scores = {
        row["step"]: row["val/top1"]
        for row in read_metrics(epath.Path(tmp_path) / "metrics.jsonl")
        if "val/top1" in row
    }
    assert results["best"]["val_top1"] == max(scores.values())
    assert scores[results["best"]["step"]] == max(scores.values())
    assert seals.best_step(epath.Path(tmp_path) / "checkpoints") == results["best"]["step"]


def test_another_config_in_the_same_workdir_is_an_error_that_names_the_key(tiny_config, tmp_path):
    run_here(tiny_config(), tmp_path)
    changed = tiny_config({"optim.learning_rate": "0.5", "seed": "3"})
    with pytest.raises(ConfigError) as error:
        run_here(changed, tmp_path)
    assert "config.optim.learning_rate: this run was started with 0.01, not 0.5" in str(error.value)
    assert "(and seed)" in str(error.value)
    with pytest.raises(ConfigError, match=r"config\.seed"):
        run_here(changed, tmp_path, allowed=("optim.learning_rate",))
    run_here(changed, tmp_path, allowed=("optim", "seed"))


def test_a_run_resumes_on_another_mesh(tiny_config, tmp_path):
    run_here(tiny_config({"total_steps": "2"}), tmp_path)
    longer = tiny_config({"total_steps": "4", "mesh.fsdp": "4", "log.every_seconds": "1.0"})
    results = run_here(longer, tmp_path, allowed=("total_steps",))
    assert results["step"] == 4
    with pytest.raises(ConfigError, match=r"config.total_steps: the run is already at step 4"):
        run_here(tiny_config({"total_steps": "3"}), tmp_path, allowed=("total_steps",))


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (
            {"batch_size": "12"},
            ConfigError,
            "config.batch_size: expected a multiple of 8 devices, got 12; ",
        ),
        (
            {"batch_size": "128"},
            DataError,
            "'train' holds 64 images, fewer than one batch of 128; pass a smaller --config.batch_",
        ),
        ({"model.num_classes": "7"}, ConfigError, "config.model.num_classes: the data set synthet"),
        ({"mesh.tensor": "4", "mesh.data": "2"}, ConfigError, "config.mesh.tensor: expected a div"),
        ({"mesh.data": "3"}, ConfigError, "config.mesh: data=3, fsdp=1, tensor=1 does not fit 8"),
        (
            {"objective.loss": "softmx"},
            ConfigError,
            "config.objective.loss: unknown 'softmx'; did you mean 'softmax'",
        ),
        ({"optim.name": "adm"}, ConfigError, "config.optim.name: unknown 'adm'; did you mean"),
        ({"optim.warmup_steps": "4"}, ConfigError, "config.optim.warmup_steps: expected fewer th"),
        ({"optim.freeze": "hed/.*"}, ConfigError, "config.optim.freeze: 'hed/.*' matches no p"),
        ({"data.interpolation": "cubic"}, ConfigError, "config.data.interpolation: unknown 'cubi"),
        ({"data.fit": "corp"}, ConfigError, "config.data.fit: unknown 'corp'; did you mean 'crop'"),
        ({"optim.accum_steps": "4"}, ConfigError, "8 devices x 4 micro-batches, got 16; try 32"),
    ],
)
def test_settings_that_do_not_fit_together_are_an_error(tiny_config, overrides, kind, message):
    with pytest.raises(kind) as error:
        open_run(tiny_config(overrides))
    assert message in str(error.value)


def test_a_run_from_another_starts_with_the_outputs_of_its_average(tiny_config, tmp_path):
    source = epath.Path(tmp_path)
    run_here(tiny_config({"optim.ema_decay": "0.5", "model.mlp.activation": "relu"}), source)
    run = open_run(tiny_config({"init_from": str(source)}))
    with jax.set_mesh(run.mesh):
        started = loop._start(run, Ledger()).variables
        origin = pretrained.restore(source, "", config_lib.read_config(source), run.mesh)
        _, last = load_variables(source, "", run.shapes.variables, ema=False)
        images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
        expected = models.forward(origin.model, origin.variables, images).logits
        np.testing.assert_array_equal(models.forward(run.model, started, images).logits, expected)
        assert (models.forward(run.model, last, images).logits != expected).any()


def test_a_run_from_another_resumes_to_the_same_bits(tiny_config, tmp_path):
    run_here(tiny_config({"total_steps": "1"}), tmp_path / "source")
    overrides = {**DROPOUT, "optim.schedule": "constant", "optim.ema_decay": "0.5"}
    overrides["init_from"] = str(tmp_path / "source")
    short, long = (tiny_config({**overrides, "total_steps": num}) for num in ("2", "4"))
    run_here(short, tmp_path / "parts")
    run_here(long, tmp_path / "whole")
    epath.Path(tmp_path / "source" / "checkpoints").rmtree()  # a resumed run does not read it
    run_here(long, tmp_path / "parts", allowed=("total_steps",))
    run = open_run(long)
    with jax.set_mesh(run.mesh):
        whole, parts = (restore_state(tmp_path / name, run) for name in ("whole", "parts"))
    chex.assert_trees_all_equal(whole, parts)


# --- Recipes.

MIXED = {
    **{
        "data.erasing": "0.5",
        "mix.mixup": "0.8",
        "mix.cutmix": "1.0",
        "objective.label_smoothing": "0.1",
    },
    **{"data.repeats": "2", "data.crop": "inception", "data.augment": "rand-m9-mstd0.5-inc1"},
}


def test_mixing_is_the_same_on_any_devices_and_in_micro_batches(tiny_config):
    base = {**MIXED, "optim.name": "sgd", "optim.learning_rate": "0.1"}
    _, alone = steps(tiny_config({**base, "mesh.data": "1"}), 4, jax.devices()[:1])
    for change in ({}, {"mesh.fsdp": "4"}, {"optim.accum_steps": "2"}):
        _, found = steps(tiny_config({**base, **change}), 4)
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-6)
    _, plain = steps(tiny_config({**base, "mix.mixup": "0", "mix.cutmix": "0"}), 4)
    assert all(one["loss"] != other["loss"] for one, other in zip(alone, plain, strict=True))


def test_sharpness_aware_steps_take_the_gradient_at_perturbed_parameters(tiny_config):
    """Compares with the definition: one gradient after another."""
    overrides = {"optim.name": "sgd", "optim.learning_rate": "0.1", "optim.momentum": "0"}
    config = tiny_config({**overrides, "optim.sam_radius": "0.5", "optim.accum_steps": "2"})
    run, first, batches = start(config, jax.devices()[:1])
    batch = next(batches)

    @jax.jit
    def loss(params):
        arrays = {key: jnp.asarray(rows) for key, rows in batch.items()}
        images = run.objective.prepare(arrays, jax.random.key(0))["image"]
        logits = models.forward(run.model, {"params": params}, images).logits
        return losses.softmax(logits, losses.targets(jnp.asarray(batch["label"]), 10)).mean()

    gradient = jax.jit(jax.grad(loss))
    grads = gradient(first.params)
    size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
    hill = jax.tree.map(lambda p, g: p + 0.5 * g / size, first.params, grads)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, first.params, gradient(hill))
    last, history = steps(config, 1, jax.devices()[:1])
    chex.assert_trees_all_close(last.params, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history[0]["loss"], loss(first.params), rtol=1e-5)


def test_a_linear_probe_trains_only_the_head(tiny_config):
    config = tiny_config({"optim.tune": "head", "optim.weight_decay": "0.1"})
    _, first, _ = start(config)
    last, _ = steps(config, 2)
    for name in first.params:
        same = jax.tree.map(np.array_equal, jax.device_get(first.params[name]), last.params[name])
        assert all(jax.tree.leaves(same)) == (name != "head")


def test_the_ema_is_evaluated_next_to_the_raw_weights(tiny_config, tmp_path):
    overrides = {"optim.ema_decay": "0.9", "data.val_split": "train[:20]", "eval.every_steps": "2"}
    results = run_here(tiny_config(overrides), tmp_path)["eval"]
    assert set(results) == {"val", "val_raw", "test", "test_raw"}
    assert results["test"]["loss"] != results["test_raw"]["loss"]
    rows = [row for row in read_metrics(epath.Path(tmp_path) / "metrics.jsonl")]
    rows = [row for row in rows if "val_raw/loss" in row]
    assert [row["step"] for row in rows if "val/loss" in row] == [2, 4]
    assert rows[-1]["val_raw/loss"] == results["val_raw"]["loss"]


def test_the_norms_of_gradient_update_and_parameters_are_logged(tiny_config):
    config = tiny_config({"optim.name": "sgd", "optim.momentum": "0"})
    (_, before), (last, history) = (steps(config, num) for num in (1, 2))
    del before
    metrics = history[-1]
    np.testing.assert_allclose(
        metrics["update_norm"], metrics["learning_rate"] * metrics["grad_norm"], rtol=1e-5
    )
    leaves = jax.tree.leaves(last.params)
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves))
    np.testing.assert_allclose(metrics["param_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("name", ["lamb", "lion", "adafactor", "muon"])
def test_an_optimizer_takes_the_same_steps_on_a_mesh(name, tiny_config):
    base = {"optim.name": name, "optim.weight_decay": "0.1", "optim.layer_decay": "0.7"}
    base |= {"optim.learning_rate": "1e-3", "model.width": "32", "model.mlp_dim": "64"}
    mesh = {"mesh.fsdp": "2", "mesh.tensor": "2"}
    alone, _ = steps(tiny_config({**base, "mesh.data": "1"}), 2, jax.devices()[:1])
    together, _ = steps(tiny_config({**base, **mesh}), 2)
    for state_of in (alone, together):  # what is added to all keys alike has no gradient but noise
        del state_of.params["blocks_0"]["attn"]["qkv"]["bias"]
    chex.assert_trees_all_close(alone.params, together.params, rtol=1e-3, atol=2e-5)
    run = open_run(tiny_config({**base, **mesh}))
    split = [leaf for leaf in jax.tree.leaves(run.shapes.opt_state) if any(leaf.sharding.spec)]
    assert split or name == "adafactor"  # whose factors are small
