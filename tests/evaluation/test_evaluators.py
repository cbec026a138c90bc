"""Named evaluators on named sets, and the metric that selects the best checkpoint."""

import json
import math
import re

import jax.numpy as jnp
import pytest
from conftest import resolved
from etils import epath

from vit_jax import config as config_lib
from vit_jax import evaluate
from vit_jax import train as train_lib
from vit_jax.checkpoints import seals
from vit_jax.console.cli import run as run_command
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.errors import ConfigError
from vit_jax.evaluation.best import Best
from vit_jax.evaluation.evaluators import EVALUATORS, make_evaluators
from vit_jax.training.run import open_run

SETS = {"eval.sets": "('small','test[:7]'),('tail','test[7:]')"}
RUN = {**SETS, "data.val_split": "test[:9]", "eval.every_steps": "1", "total_steps": "5"}


class Brightness:
    """The mean pixel value; an evaluator does not have to run the model."""

    score = "mean"
    maximize = False

    def __init__(self, model, config):
        pass

    def zeros(self):
        return {"sum": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}

    def __call__(self, variables, batch):
        means = batch["image"].mean(axis=(1, 2, 3)) + variables["params"]["head"]["bias"][0]
        mask = batch["mask"]
        return {"sum": jnp.where(mask, means, 0).sum(), "count": mask.sum(dtype=jnp.int32)}

    def means(self, totals):
        count = int(totals["count"])
        return {"mean": float(totals["sum"]) / count, "count": count}

    def format(self, result):
        return f"brightness {result['mean']:.3f}"


@pytest.fixture
def brightness(monkeypatch):
    monkeypatch.setitem(EVALUATORS, "brightness", Brightness)


def train(config, workdir):
    return train_lib.train(resolved(config), epath.Path(workdir))


def rows(workdir):
    """Returns the rows with evaluations, by step."""
    found = read_metrics(epath.Path(workdir) / "metrics.jsonl")
    return {row["step"]: row for row in found if any(key.startswith("val/") for key in row)}


def test_two_sets_are_evaluated_next_to_val_and_the_second_selects_the_best(
    tiny_config, tmp_path, capsys
):
    results = train(tiny_config({**RUN, "eval.best": "tail"}), tmp_path)
    assert list(results["eval"]) == ["val", "small", "tail", "test"]
    assert [results["eval"][name]["count"] for name in results["eval"]] == [9, 7, 14, 21]
    found = rows(tmp_path)
    assert list(found) == [1, 2, 3, 4, 5]
    scores = {step: row["tail/top1"] for step, row in found.items()}
    highest = max(scores.values())
    step = results["best"]["step"]
    assert results["best"] == {"step": step, "tail_top1": highest}
    assert scores[step] == highest
    assert seals.best_step(epath.Path(tmp_path) / "checkpoints") == step
    said = capsys.readouterr().out
    assert "evaluate  step 3  tail: top-1 " in said and "evaluate  step 3  val: top-1 " in said
    assert train(tiny_config({**RUN, "eval.best": "tail"}), tmp_path) == results
    assert "          small: top-1 " in capsys.readouterr().out


def test_the_command_takes_the_name_of_a_set(tiny_config, tmp_path, capsys):
    config = tiny_config({**RUN, "total_steps": "1"})
    results = train(config, tmp_path)
    for flags in (("--split=tail",), ("--split=tail", "--config.eval.batch_size=8")):
        capsys.readouterr()
        argv = ["evaluate", f"--workdir={tmp_path}", *flags]
        assert run_command(evaluate.main, evaluate._flags(), "", argv) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report["eval"].keys() == {"tail"}
        assert report["eval"]["tail"] == pytest.approx(results["eval"]["tail"], rel=1e-6)
    assert (tmp_path / "evaluations" / "1-tail.json").exists()


@pytest.mark.usefixtures("brightness")
def test_further_evaluators_name_their_results_after_the_set(tiny_config, tmp_path, capsys):
    overrides = {**RUN, "eval.evaluators": "classification,brightness", "optim.ema_decay": "0.5"}
    overrides |= {"eval.best": "small/brightness", "optim.learning_rate": "0.1"}
    results = train(tiny_config(overrides), tmp_path)
    sets = ("val", "small", "tail", "test")
    expected = [
        f"{name}{kind}{raw}"
        for name in sets
        for raw in ("", "_raw")
        for kind in ("", "_brightness")
    ]
    assert list(results["eval"]) == expected
    assert results["eval"]["val"].keys() == {"top1", "top5", "loss", "count", "skipped"}
    assert results["eval"]["val_brightness_raw"].keys() == {"mean", "count", "skipped"}
    means = {step: row["small_brightness/mean"] for step, row in rows(tmp_path).items()}
    least = min(means, key=means.get)
    assert results["best"] == {"step": least, "small_brightness_mean": means[least]}
    assert "small_brightness: brightness " in capsys.readouterr().out
    argv = ["evaluate", f"--workdir={tmp_path}", "--weights=raw"]
    assert run_command(evaluate.main, evaluate._flags(), "", argv) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["eval"].keys() == {"test_raw", "test_brightness_raw"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval.best": "val"}, r"config\.eval\.best: no set 'val' .*; choose from small, small/c"),
        ({"eval.best": "tial"}, r"config\.eval\.best: no set 'tial' .*; did you mean 'tail'"),
        ({"eval.best": "tail/clasification"}, r"did you mean 'tail/classification'"),
        ({"eval.best": "test"}, r"config\.eval\.best: no set 'test' is evaluated while training"),
        ({"eval.evaluators": "knn"}, r"config\.eval\.evaluators: unknown 'knn'; choose from clas"),
        ({"eval.sets": "('a','tst'),"}, r"config\.eval\.sets\[0\]: Unknown split 'tst'"),
        ({"eval.sets": "('a','digist:test'),"}, r"config\.eval\.sets\[0\]: .*'digits'"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_name(tiny_config, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_run(tiny_config({**SETS, **overrides}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval.sets": "('test','test[:3]'),"}, r"eval\.sets\[0\]: the name 'test' is taken"),
        (
            {"eval.sets": "('a','test[:3]'),('a','test[:2]')"},
            r"eval\.sets\[1\]: the name 'a' is taken; expected a new one",
        ),
        ({"eval.sets": "('a/b','test[:3]'),"}, r"eval\.sets\[0\]: expected a name without '/'"),
        ({"eval.sets": "('val_raw','test'),"}, r"eval\.sets\[0\]: expected a name without '/' or"),
        ({"eval.sets": "('a',''),"}, r"eval\.sets\[0\]: 'a' names no images; expected SPLIT or D"),
        ({"eval.sets": "('a',),"}, r"eval\.sets\[0\]: expected 2 values \(each text\)"),
        (
            {"eval.evaluators": "classification,classification"},
            r"eval\.evaluators: expected different names",
        ),
    ],
)
def test_names_of_sets_and_evaluators_are_checked(tiny_config, overrides, message):
    with pytest.raises(ConfigError, match=rf"^config\.{message}"):
        tiny_config(overrides)


def test_a_set_with_the_name_of_a_result_is_an_error(tiny_config, brightness):
    config = tiny_config(
        {"eval.evaluators": "classification,brightness", "data.val_split": "test[:3]"}
        | {"eval.sets": "('val_brightness','test[:3]'),"}
    )
    with pytest.raises(ConfigError, match=r"^config\.eval\.sets: two results would have the name"):
        open_run(config)


def test_a_resumed_run_must_have_the_same_sets(tiny_config, tmp_path):
    config = tiny_config({**RUN, "total_steps": "1"})
    run = open_run(config)
    assert run.fingerprint["data"].keys() == {"train_split", "val_split", "test_split", "sets"}
    assert run.fingerprint["data"]["sets"]["tail"]["examples"] == 14
    shared = config_lib.shared_by_hosts(config, run.fingerprint["data"])
    assert shared["config.data.sets.tail.examples"] == 14
    train(config, tmp_path)
    other = tiny_config({**RUN, "total_steps": "1", "data.synthetic.test_examples": "20"})
    allowed = ("data.synthetic.test_examples", "data.val_split", "data.test_split")
    with pytest.raises(
        ConfigError, match=r"^config\.eval\.sets: this run was started with other data"
    ):
        train_lib.train(resolved(other), epath.Path(tmp_path), allowed)


def test_without_a_watched_set_there_is_no_best_checkpoint(tiny_config):
    assert open_run(tiny_config()).best is None
    assert open_run(tiny_config(SETS)).best is None
    assert open_run(tiny_config({"data.val_split": "test[:3]"})).best == Best("val", "top1", True)


@pytest.mark.parametrize(("maximize", "score"), [(True, 0.25), (False, -0.25)])
def test_the_highest_score_is_the_best(maximize, score):
    best = Best("val", "figure", maximize)
    assert best.score({"val": {"figure": 0.25}}) == score
    assert best.signed(score) == 0.25
    assert best.score({"val": {"figure": math.nan}}) is None
    assert best.score({}) is None


def test_the_objective_names_the_evaluator_where_the_config_does_not(tiny_config, brightness):
    run = open_run(tiny_config())
    assert list(run.evaluators) == ["classification"]
    made = make_evaluators(run.config, run.model, "brightness")
    assert list(made) == ["brightness"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"score": "median"},
            "means() of the evaluator brightness has no median, only mean, count",
        ),
        ({"format": None}, "the evaluator brightness has no format"),
        ({"zeros": lambda self: {"sum": jnp.zeros(())}}, "has no count in zeros()"),
    ],
)
def test_an_incomplete_evaluator_is_an_error_at_the_start(
    changes, message, tiny_config, monkeypatch
):
    class Lacking(Brightness):
        pass

    for key, value in changes.items():
        if value is None:
            monkeypatch.delattr(Brightness, key)
        else:
            monkeypatch.setattr(Lacking, key, value, raising=False)
    monkeypatch.setitem(EVALUATORS, "brightness", Lacking)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        open_run(tiny_config({"eval.evaluators": "brightness"}))
    assert error.value.path == "config.eval.evaluators"
