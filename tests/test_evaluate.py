"""Evaluation counts every image exactly once, however it is batched and shared."""

import json
import math
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolved
from etils import epath

from vit_jax import evaluate as evaluate_lib
from vit_jax import train as train_lib
from vit_jax.console.cli import run as run_command
from vit_jax.console.tables import read_table
from vit_jax.errors import DataError, Interrupted
from vit_jax.evaluation import against, sets
from vit_jax.evaluation.classification import Classification
from vit_jax.evaluation.evaluators import EVALUATORS
from vit_jax.evaluation.loop import Evaluation
from vit_jax.evaluation.statistics import calibration
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
    assert report == {
        "step": 4,
        "eval": {"test": results["eval"]["test"]},
        "intervals": {"test": results["intervals"]["test"]},
    }
    stored = json.loads((workdir / "evaluations" / "4-test.json").read_text())
    analysis = stored.pop("analysis")
    assert stored == report and analysis.keys() == {"test"}
    metrics, expected = analysis["test"]["metrics"], results["eval"]["test"]
    assert (metrics["top1"]["value"], metrics["top5"]["value"]) == (
        expected["top1"],
        expected["top5"],
    )
    assert metrics["loss"]["value"] == pytest.approx(expected["loss"], rel=1e-6)
    assert (analysis["test"]["weights"], analysis["test"]["step"]) == ("ema", 4)


def test_the_command_takes_the_average_or_the_weights_themselves(trained, capsys):
    workdir, results = trained
    code, out, _ = evaluate(capsys, workdir, "--weights=raw")
    assert code == 0 and "weights   the raw weights, not their average" in out
    report = json.loads(out.splitlines()[-1])
    assert report["eval"] == {"test_raw": results["eval"]["test_raw"]}
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
    monkeypatch.setattr(Evaluation, "collect", lambda *args, **kwargs: (nan, None))
    code, out, _ = evaluate(capsys, workdir)
    assert code == 0 and "NaN" not in out.splitlines()[-1]
    assert json.loads(out.splitlines()[-1])["eval"]["test"]["loss"] is None
    stored = (workdir / "evaluations" / "4-test.json").read_text()
    assert json.loads(stored)["eval"]["test"]["loss"] is None and "NaN" not in stored


def test_several_sets_and_both_weights_are_side_by_side(trained, capsys, tmp_path):
    workdir, results = trained
    table = tmp_path / "images.npz"
    flags = ("--split=test,train[:13]", "--weights=both", f"--table={table}")
    code, out, _ = evaluate(capsys, workdir, *flags)
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert list(report["eval"]) == ["test", "test_raw", "train[:13]", "train[:13]_raw"]
    assert report["eval"]["test_raw"] == results["eval"]["test_raw"]
    assert report["intervals"].keys() == report["eval"].keys()
    stored = json.loads((workdir / "evaluations" / "4-test.json").read_text())
    assert {k: v["weights"] for k, v in stored["analysis"].items()} == {
        "test": "ema",
        "test_raw": "raw",
    }
    columns = read_table(epath.Path(table)).columns
    names, counts = np.unique(columns["set"], return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {
        label: result["count"] for label, result in report["eval"].items()
    }
    rows = columns["set"] == "test"
    assert columns["correct"][rows].mean() == results["eval"]["test"]["top1"]
    assert columns["loss"][rows].mean() == pytest.approx(results["eval"]["test"]["loss"], rel=1e-6)
    assert columns["id"][rows][20] == "synthetic:test[20]"
    np.testing.assert_array_equal(columns["top5"][:, 0], columns["predicted"])
    assert columns["top5_probability"].shape == (68, 5)


def open_arrays_per_set(monkeypatch):
    """Returns a list that gets, before each set, the widths of the arrays that are still held."""
    collect, made, held = Evaluation.collect, [], []

    def watched(self, *args, **kwargs):
        held.append([ref().shape[1] for ref in made if ref() is not None])
        results, found = collect(self, *args, **kwargs)
        made.extend([weakref.ref(found.logits), weakref.ref(found.features)])
        return results, found

    monkeypatch.setattr(Evaluation, "collect", watched)
    return held


def test_only_what_a_flag_needs_is_held_until_the_end(trained, capsys, monkeypatch, tmp_path):
    held = open_arrays_per_set(monkeypatch)
    flags = ("--split=test,train[:13],val", "--calibrate=", f"--table={tmp_path / 'x.npz'}")
    assert evaluate(capsys, trained[0], *flags)[0] == 0
    assert held == [[], [], []]
    held.clear()
    assert evaluate(capsys, trained[0], f"--against={trained[0]}", *flags[:2])[0] == 0
    assert held == [[], [10], [10, 10], [10, 10, 10], [10, 10, 10], [10, 10, 10]]


def test_both_weights_are_of_one_step(trained, capsys, monkeypatch):
    asked, open_subject = [], evaluate_lib.open_subject

    def watched(*args, step, **kwargs):
        asked.append(step)
        return open_subject(*args, step=step, **kwargs)

    monkeypatch.setattr(evaluate_lib, "open_subject", watched)
    assert evaluate(capsys, trained[0], "--weights=both")[0] == 0
    assert asked == ["", "4"]


def test_the_temperature_is_never_that_of_the_evaluated_images(trained, capsys):
    workdir, _ = trained  # its val is a part of test
    code, out, _ = evaluate(capsys, workdir, "--split=val,test,train[:13]")
    assert code == 0
    shared = "no temperature on test: val is of the same split, and may share images"
    notes = [line[10:] for line in out.splitlines() if "temperature on" in line]
    assert notes == ["no temperature on val, to which it is fitted", shared]

    def temperature(name):
        text = (workdir / "evaluations" / f"4-{name}.json").read_text()
        return next(iter(json.loads(text)["analysis"].values()))["temperature"]

    assert temperature("val") is None and temperature("test") is None
    found = temperature("train__13_")
    assert (found["fitted_on"], found["count"]) == ("val", 9)
    code, _, _ = evaluate(capsys, workdir, "--split=train[:13]", "--calibrate=")
    assert code == 0 and temperature("train__13_") is None
    code, _, _ = evaluate(capsys, workdir, "--split=train[:13]")  # in a pass of its own
    assert temperature("train__13_") == found


def test_a_temperature_that_is_not_that_of_the_images_and_classes_is_stated(
    trained, capsys, monkeypatch, tmp_path
):
    subset = tmp_path / "subset.txt"
    subset.write_text("1\n3\n4\n")
    flags = ("--split=train[:13]", "--calibrate=val")
    _, out, _ = evaluate(capsys, trained[0], f"--label_set={subset}", *flags)
    assert "note      the temperature is fitted over all classes of val, not those of" in out
    monkeypatch.setattr(calibration, "fit_temperature", lambda *args: math.nan)
    _, out, _ = evaluate(capsys, trained[0], *flags)
    assert "note      no temperature: none is best for val\n" in out


@pytest.mark.parametrize(
    "flag", ["--table=x.npz", "--label_set=by_name", "--calibrate=val", "--against=."]
)
def test_what_needs_predictions_is_refused_before_the_first_pass(
    trained, capsys, monkeypatch, tmp_path, flag
):
    class Doubled(Classification):
        def __call__(self, variables, batch):
            return super().__call__(variables, batch)

    monkeypatch.setitem(EVALUATORS, "doubled", Doubled)
    monkeypatch.chdir(tmp_path)
    flag = flag.replace("=.", f"={trained[0]}")
    code, out, err = evaluate(capsys, trained[0], "--config.eval.evaluators=doubled", flag)
    problem = f"the evaluators of {trained[0]} make no predictions"
    assert (code, err) == (64, f"error: {flag.partition('=')[0]}: {problem}\n")
    assert "test: top-1" not in out


def test_another_run_is_checked_before_the_first_pass(trained, capsys, monkeypatch, tmp_path):
    other = shutil.copytree(trained[0], tmp_path / "other")
    monkeypatch.setattr(against, "read_class_names", lambda *args: tuple("abcdefghij"))
    code, out, err = evaluate(capsys, trained[0], f"--against={other}")
    problem = "expected the same classes, got 'a' for class 0, 'class_0' here"
    assert (code, err) == (64, f"error: --against: {problem}\n") and "test: top-1" not in out
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"evaluators": []', '"evaluators": ["own"]'))
    monkeypatch.setitem(EVALUATORS, "own", lambda model, config: Own())
    code, out, err = evaluate(capsys, trained[0], f"--against={other}")
    problem = f"the evaluators of {other} make no predictions"
    assert (code, err) == (64, f"error: --against: {problem}\n") and "evaluate " not in out


class Own:
    """An evaluator that counts images."""

    score, maximize = "count", True

    def zeros(self):
        return {"count": jnp.zeros((), jnp.int32)}

    def __call__(self, variables, batch):
        return {"count": jnp.sum(batch["mask"], dtype=jnp.int32)}

    def means(self, totals):
        return {"count": int(totals["count"])}

    def format(self, result):
        return f"{result['count']}"


def test_two_runs_are_compared_on_the_same_images(trained, capsys, tmp_path):
    workdir, results = trained
    other = shutil.copytree(workdir, tmp_path / "other")
    shutil.rmtree(other / "checkpoints" / "4")
    code, out, _ = evaluate(capsys, workdir, f"--against={other}")
    assert code == 0 and f"against   {other}, step 2 (ema weights), on test: top-1 " in out
    stored = json.loads((workdir / "evaluations" / "4-test.json").read_text())["against"]
    assert stored["first"]["top1"]["value"] == results["eval"]["test"]["top1"]
    _, alone, _ = evaluate(capsys, other)
    top1 = json.loads(alone.splitlines()[-1])["eval"]["test"]["top1"]
    assert stored["second"]["top1"]["value"] == top1
    assert stored["both"] + stored["first_only"] == round(21 * results["eval"]["test"]["top1"])
    last = json.loads(out.splitlines()[-1])["against"]["test"]
    assert last == {key: stored[key] for key in ("other", "difference", "mcnemar")}


FEWER = {"data.synthetic.num_classes": "3", "model.num_classes": "3"}


def test_a_run_with_other_classes_is_refused(trained, capsys, tmp_path, tiny_config):
    fewer = tiny_config({**FEWER, "total_steps": "1"})
    train_lib.train(resolved(fewer), epath.Path(tmp_path))
    capsys.readouterr()
    code, _, err = evaluate(capsys, trained[0], f"--against={tmp_path}")
    problem = "expected a model with the same 10 classes, got one with 3"
    assert (code, err) == (64, f"error: --against: {problem}\n")
    code, _, err = evaluate(capsys, trained[0], f"--against={tmp_path / 'nowhere'}")
    assert code == 66 and err.count("\n") == 1


def test_a_label_set_says_which_classes_count(trained, capsys, tmp_path):
    workdir, _ = trained
    table, subset = tmp_path / "images.npz", tmp_path / "subset.txt"
    subset.write_text("1\n3\n4\n")
    evaluate(capsys, workdir, f"--table={table}")
    all_classes = read_table(epath.Path(table)).columns
    code, out, _ = evaluate(capsys, workdir, f"--label_set=test={subset}", f"--table={table}")
    assert code == 0 and "note      labels subset" in out
    columns = read_table(epath.Path(table)).columns
    kept = np.isin(all_classes["label"], [1, 3, 4])
    assert 0 < kept.sum() < 21
    assert columns["id"].tolist() == all_classes["id"][kept].tolist()
    result = json.loads(out.splitlines()[-1])["eval"]["test"]
    assert result["count"] == kept.sum() and result["top1"] == columns["correct"].mean()
    assert f"images    {21 - kept.sum()} of other classes are left out" in out
    path = workdir / "evaluations" / "4-test-subset_txt.json"
    assert f"written   {path}\n" in out
    stored = json.loads(path.read_text())
    assert stored["label_set"] == "subset.txt" and stored["eval"]["test"] == result


def test_a_label_set_gives_the_metrics_of_classification(trained, capsys, monkeypatch, tmp_path):
    class Errors(Classification):
        score, maximize = "error", False

        def means(self, totals):
            found = super().means(totals)
            return {"error": 1 - found["top1"], "count": found["count"]}

        def format(self, result):
            return f"error {result['error']:.2%}"

        def intervals(self, result):
            return {}

    monkeypatch.setitem(EVALUATORS, "errors", Errors)
    subset = tmp_path / "subset.txt"
    subset.write_text("1\n3\n4\n")
    own = "--config.eval.evaluators=errors"
    code, out, _ = evaluate(capsys, trained[0], own)
    assert code == 0 and "test: error " in out
    code, out, _ = evaluate(capsys, trained[0], own, f"--label_set={subset}")
    assert code == 0 and "test: top-1 " in out
    report = json.loads(out.splitlines()[-1])
    assert report["eval"]["test"].keys() == {"top1", "top5", "loss", "count", "skipped"}
    assert report["intervals"]["test"].keys() == {"top1", "top5"}


def test_an_interruption_is_no_missing_temperature(trained, capsys, monkeypatch):
    def fail(*args):
        raise Interrupted("by SIGTERM")

    monkeypatch.setattr(sets, "resolve", fail)
    code, _, err = evaluate(capsys, trained[0], "--split=train[:13]")
    assert code == Interrupted.exit_code and "by SIGTERM" in err


def test_means_over_corruptions_are_in_a_file(trained, capsys):
    sets = "--config.eval.sets=(('snow_1','test[:9]'),('snow_3','test[9:]'))"
    code, out, _ = evaluate(capsys, trained[0], "--split=snow_1,snow_3", sets)
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    stored = json.loads((trained[0] / "evaluations" / "4-corruptions.json").read_text())
    assert stored == {"step": 4, "corruptions": report["corruptions"]}
    errors = [1 - report["eval"][name]["top1"] for name in ("snow_1", "snow_3")]
    assert stored["corruptions"]["by_corruption"]["snow"] == pytest.approx(np.mean(errors))


def test_weights_without_classes_are_referred_to_probes(trained, capsys, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace('"num_classes": 10', '"num_classes": 0', 1))
    code, _, err = evaluate(capsys, workdir)
    hint = "python -m vit_jax.probe classifies them"
    assert code == 64 and err == (
        f"error: --workdir: {workdir} has a model without classes, for features only; {hint}\n"
    )


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
    (path,) = (workdir / "evaluations").glob("4-test-????????.json")  # not that of the run itself
    assert json.loads(path.read_text())["settings"] == {"data.image_size": [12, 8]}


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--split=test,test"], 64, "--split: expected different names with commas, got 'test,te"),
        (["--table=x.csv"], 64, "--table: expected a name that ends in .npz or .parquet"),
        (["--calibrate=vla"], 64, "--calibrate: no set 'vla'; did you mean 'val'?"),
        (["--label_set=imagenet_q"], 64, "--label_set: unknown 'imagenet_q'"),
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
