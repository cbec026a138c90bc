"""Evaluation counts every image exactly once, however it is batched and shared."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from vit_jax import evaluate as evaluate_lib
from vit_jax import train as train_lib
from vit_jax.console.cli import run as run_command
from vit_jax.errors import DataError
from vit_jax.evaluation.loop import Evaluation
from vit_jax.training import state
from vit_jax.training.run import open_run


def variables_of(run):
    """Returns variables whose head is not zero, so that images differ."""
    shape = run.config.data.image_shape
    with jax.set_mesh(run.mesh):
        first = state.init(run.model, run.tx, shape, 0, run.shapes).params
    noise = jax.random.normal(jax.random.key(1), first["head"]["kernel"].shape)
    return {"params": {**first, "head": {**first["head"], "kernel": noise}}}


def evaluate_test(run, variables, **kwargs):
    """Returns the figures on the split test."""
    with jax.set_mesh(run.mesh):
        evaluation = Evaluation(run.evaluators, run.config, run.mesh)
        return evaluation(variables, run.splits["test"], "test", **kwargs)


def counts(config, devices=None):
    run = open_run(config, devices)
    return evaluate_test(run, variables_of(run))["test"]


def test_any_batch_size_and_devices_equal_a_plain_loop(tiny_config):
    config = tiny_config()
    run = open_run(config)
    variables, source = variables_of(run), run.splits["test"]
    images = np.stack([source[i]["image"] for i in range(21)])
    labels = np.array([source[i]["label"] for i in range(21)])
    normalized = (jnp.asarray(images, jnp.float32) / 255 - 0.5) / 0.25
    logits = np.asarray(run.model.apply(variables, normalized, train=False).logits)
    order = np.argsort(-logits, axis=1, kind="stable")
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = {
        "top1": np.mean(order[:, 0] == labels),
        "top5": np.mean((order[:, :5] == labels[:, None]).any(axis=1)),
        "loss": -np.mean(log_probs[np.arange(21), labels]),
        "count": 21,
    }
    assert 0 < expected["top1"] < expected["top5"]
    single = {"mesh.data": "1"}
    results = [
        counts(config),
        counts(tiny_config({"eval.batch_size": "9"})),
        counts(tiny_config({"eval.batch_size": "24", "mesh.fsdp": "2"})),
        counts(tiny_config({"eval.batch_size": "5", **single}), jax.devices()[:1]),
        counts(tiny_config({"eval.batch_size": "1", **single}), jax.devices()[:1]),
    ]
    for result in results:
        assert result["count"] == 21
        assert result["top1"] == expected["top1"]
        assert result["top5"] == expected["top5"]
        np.testing.assert_allclose(result["loss"], expected["loss"], rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with a best checkpoint and a moving average."""
    from conftest import TINY

    from vit_jax import config as config_lib

    tree = config_lib.to_config_dict(config_lib.Config())
    extra = {"data.val_split": "test[:9]", "eval.every_steps": "2", "optim.ema_decay": "0.5"}
    settings = config_lib.resolve(tree, {**TINY, **extra, "checkpoint.every_steps": "2"})
    workdir = tmp_path_factory.mktemp("run")
    results = train_lib.train(settings, epath.Path(workdir))
    return workdir, results


def evaluate(capsys, workdir, *flags):
    argv = ["evaluate", f"--workdir={workdir}", *flags]
    code = run_command(evaluate_lib.main, evaluate_lib._flags(), "", argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_gives_the_figures_of_the_run(trained, capsys):
    workdir, results = trained
    code, out, _ = evaluate(capsys, workdir)
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert report == {"step": 4, "eval": {"test": results["eval"]["test"]}}
    assert json.loads((workdir / "evaluations" / "4-test.json").read_text()) == report


def test_the_command_takes_the_average_or_the_weights_themselves(trained, capsys):
    workdir, results = trained
    code, out, _ = evaluate(capsys, workdir, "--weights=raw")
    assert code == 0 and "weights   the raw weights, not their average" in out
    report = json.loads(out.splitlines()[-1])
    assert report == {"step": 4, "eval": {"test_raw": results["eval"]["test_raw"]}}
    assert (workdir / "evaluations" / "4-test_raw.json").is_file()
    code, out, _ = evaluate(capsys, workdir, "--weights=ema")
    assert code == 0 and "weights   the average of the weights" in out
    assert "test" in json.loads(out.splitlines()[-1])["eval"]


def test_the_default_split_is_val_where_the_run_has_no_test(trained, capsys, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    text = (workdir / "config.json").read_text()
    text = text.replace('"test_split": "test"', '"test_split": ""')
    (workdir / "config.json").write_text(text)
    code, out, _ = evaluate(capsys, workdir)
    assert code == 0 and "note      --split=val, as the run has no test split\n" in out
    assert json.loads(out.splitlines()[-1])["eval"] == {"val": trained[1]["eval"]["val"]}
    text = text.replace('"val_split": "test[:9]"', '"val_split": ""')
    (workdir / "config.json").write_text(text)
    code, _, err = evaluate(capsys, workdir)
    assert (code, err) == (
        64,
        "error: --split: there is no test or val split (the run has train); pass --split=NAME\n",
    )
    code, out, _ = evaluate(capsys, workdir, "--split=test")  # of the data set
    assert json.loads(out.splitlines()[-1])["eval"] == {"test": trained[1]["eval"]["test"]}


def test_a_run_without_an_average_has_one_set_of_weights(trained, capsys, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace('"ema_decay": 0.5', '"ema_decay": 0.0'))
    code, _, err = evaluate(capsys, workdir)
    assert code == 74 and "optim.ema_decay is 0.0, but" in err
    allow = "--allow_config_change=optim.ema_decay"
    code, out, _ = evaluate(capsys, workdir, "--weights=raw", allow)
    assert code == 0 and "weights  " not in out
    assert list(json.loads(out.splitlines()[-1])["eval"]) == ["test"]
    code, _, err = evaluate(capsys, workdir, "--weights=ema", allow)
    assert code == 64 and "--weights: the run has no average (optim.ema_decay is 0)" in err


def test_figures_that_are_not_finite_are_null(trained, capsys, monkeypatch):
    workdir, _ = trained
    nan = {"test": {"top1": 0.0, "top5": 0.0, "loss": math.nan, "count": 3, "skipped": 0}}
    monkeypatch.setattr(Evaluation, "__call__", lambda *args, **kwargs: nan)
    code, out, _ = evaluate(capsys, workdir)
    assert code == 0 and "NaN" not in out.splitlines()[-1]
    assert json.loads(out.splitlines()[-1])["eval"]["test"]["loss"] is None
    stored = (workdir / "evaluations" / "4-test.json").read_text()
    assert json.loads(stored)["eval"]["test"]["loss"] is None and "NaN" not in stored


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(trained, capsys, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(workdir / "evaluations", ignore_errors=True)
    (workdir / "evaluations").write_text("in the way, as a read-only file system is")
    code, out, _ = evaluate(capsys, workdir)
    assert code == 0
    *_, note, report = out.splitlines()
    assert note == f"note      {workdir}/evaluations/4-test.json is not written: File exists"
    assert json.loads(report)["eval"]["test"] == trained[1]["eval"]["test"]


def test_the_command_takes_a_split_a_step_and_overrides(trained, capsys):
    workdir, results = trained
    flags = ("--split=train[:13]", "--step=2", "--config.eval.batch_size=8")
    code, out, _ = evaluate(capsys, workdir, *flags)
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert report["step"] == 2
    assert report["eval"]["train[:13]"]["count"] == 13
    code, out, _ = evaluate(capsys, workdir, "--split=val", "--step=best")
    report = json.loads(out.splitlines()[-1])
    assert report["step"] == results["best"]["step"]
    assert report["eval"]["val"]["top1"] == results["best"]["val_top1"]


def test_the_command_evaluates_at_another_image_size(trained, capsys):
    workdir, _ = trained
    code, out, _ = evaluate(capsys, workdir, "--config.data.image_size=12,8")
    assert code == 0
    assert "note      config.data.image_size is (12, 8) (flag), not (8, 8)" in out
    assert json.loads(out.splitlines()[-1])["eval"]["test"]["count"] == 21


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--step=3"], 66, "--step=3: no such checkpoint; there are 2, 4"),
        (["--step=newest"], 66, "--step=newest: no such checkpoint"),
        (["--split=tst"], 64, "--split: Unknown split 'tst'"),
        (
            ["--config.model.mlp.activation=relu"],
            64,
            "config.model.mlp.activation: relu (flag), but the weights were trained with gelu",
        ),
        (["--config.model.depth=2"], 64, "config.model.depth: 2 (flag), but the weights were t"),
        (["--raw"], 64, "--raw: no such flag; pass --weights=raw"),
        (["--config.mesh.data=3"], 64, "config.mesh: data=3, fsdp=1, tensor=1 does not fit 8"),
        (["--config.data.channels=3"], 64, "config.data.mean: expected 3 numbers, one per channel"),
        (["--config.modl.depth=1"], 64, "config.modl.depth: no such field; did you mean 'model.d"),
    ],
)
def test_a_wrong_flag_of_the_command_is_one_line(trained, capsys, flags, code, message):
    got, _, err = evaluate(capsys, trained[0], *flags)
    assert got == code
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_another_model_than_the_trained_one_is_named(trained, capsys, tmp_path):
    code, _, err = evaluate(capsys, trained[0], "--config.model.mlp_dim=64")
    assert code == 64
    assert "config.model.mlp_dim: 64 (flag), but the weights were trained with 32" in err
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace('"mlp_dim": 32', '"mlp_dim": 64'))
    code, _, err = evaluate(capsys, workdir)
    assert code == 74
    assert "model.mlp_dim is 64, but the checkpoint of step 4 was trained with 32" in err
    assert "--allow_config_change" not in err
    code, _, err = evaluate(capsys, workdir, "--allow_config_change=model.mlp_dim")
    assert code == 74
    assert (
        "the checkpoint is of another model: blocks_0/mlp/fc1/bias is (32,), expected (64,)" in err
    )
    assert err.count("\n") == 1


def test_a_directory_without_a_run_is_refused(tmp_path, capsys):
    code, _, err = evaluate(capsys, tmp_path)
    assert code == 66
    assert "no such file; expected the work directory of a run" in err


def test_an_evaluation_can_be_stopped(tiny_config):
    run = open_run(tiny_config())
    assert evaluate_test(run, variables_of(run), stopped=lambda: True) == {}


def test_a_data_set_without_a_readable_image_is_refused(tiny_config, monkeypatch):
    run = open_run(tiny_config({"data.test_split": "test[:1]"}))
    source = run.splits["test"]
    monkeypatch.setattr(type(source), "__getitem__", lambda self, index: {}["gone"])
    with pytest.raises(DataError, match=r"synthetic:test\[:1\]: all images are unreadable"):
        evaluate_test(run, variables_of(run))
