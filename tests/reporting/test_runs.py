"""Folders of runs are found and read, and whatever is in them never ends the reading."""

import json
import os

import pytest
from etils import epath
from run_folders import make_result, write_run
from scipy import stats

from vit_jax.reporting.run_folder import read_run_folder
from vit_jax.reporting.runs import find_runs, read_run


def read(folder):
    return read_run(epath.Path(folder), "x")


def test_a_finished_run(tmp_path):
    run = read(write_run(tmp_path, test=0.9944444444444445, val=0.9930555555555556))
    assert (run.model, run.parameters, run.image_size, run.data) == (
        "vit_mu4",
        136906,
        "16x16",
        "digits",
    )
    assert (run.step, run.length, run.seconds, run.goodput) == (2000, "2,000 steps", 32.78, 0.8805)
    assert list(run.scores) == ["val", "test"] and not run.problem
    test = run.scores["test"]
    expected = stats.binomtest(358, 360).proportion_ci(method="wilson")
    assert (test.low, test.high) == pytest.approx(tuple(expected))
    assert (test.split, test.images, test.loss) == ("test", 360, 0.02)
    assert run.scores["val"].split == "train[90%:]"


def test_the_date_is_that_of_the_last_attempt_or_of_the_results(tmp_path):
    write_run(tmp_path, test=0.9)
    os.utime(tmp_path / "results.json", (0, 1_700_000_000))
    assert read(tmp_path).date == "2023-11-14"
    (tmp_path / "goodput.json").write_text(json.dumps({"goodput": 0.5, "written": 1.6e9}))
    assert read(tmp_path).date == "2020-09-13"


def test_the_goodput_is_that_of_the_results_everywhere(tmp_path):
    write_run(tmp_path, test=0.9)
    (tmp_path / "goodput.json").write_text(json.dumps({"goodput": 0.5}))
    page = read_run_folder(epath.Path(tmp_path))
    assert read(tmp_path).goodput == page.goodput["goodput"] == 0.8805
    (tmp_path / "results.json").unlink()  # while the run trains
    page = read_run_folder(epath.Path(tmp_path))
    assert read(tmp_path).goodput == page.goodput["goodput"] == 0.5


def test_a_folder_of_images_has_its_name_and_a_length_its_unit(tmp_path):
    settings = {"data.name": "", "data.root": "/data/PHOTOS/", "total_steps": 0}
    run = read(write_run(tmp_path, val=0.5, settings={**settings, "total_epochs": 10.0}))
    assert (run.data, run.length, run.scores["val"].images) == ("PHOTOS", "10 epochs", 144)


def test_sets_that_were_evaluated_later_belong_to_the_step_of_the_results(tmp_path):
    write_run(tmp_path, val=0.9)
    for step, top1 in ((1000, 0.2), (2000, 0.8)):
        report = {"step": step, "eval": {"test": make_result(top1), "val": make_result(top1)}}
        write_run(tmp_path, results=report, name=f"evaluations/{step}-test.json")
    mapped = {"step": 2000, "label_set": "real", "eval": {"other": make_result(0.1)}}
    write_run(tmp_path, results=mapped, name="evaluations/2000-real.json")
    smaller = {"step": 2000, "settings": {"data.image_size": [28, 28]}, "eval": mapped["eval"]}
    write_run(tmp_path, results=smaller, name="evaluations/2000-other-0badcafe.json")
    scores = read(tmp_path).scores
    assert {label: score.top1 for label, score in scores.items()} == {"test": 0.8, "val": 0.9}


def test_without_results_the_newest_evaluation_counts(tmp_path):
    for step, top1 in ((900, 0.2), (1000, 0.8)):
        report = {"step": step, "eval": {"test": make_result(top1)}}
        write_run(tmp_path, results=report, name=f"evaluations/{step}-test.json")
    run = read(tmp_path)
    assert (run.step, run.scores["test"].top1) == (1000, 0.8)
    assert run.problem == "the training has not finished; it has no checkpoint"


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ("{", "results.json: not valid JSON"),
        ("[1]", "results.json: expected an object, got [1]"),
        ('{"step": 1, "step": 2}', "results.json: not valid JSON (duplicate key 'step')"),
        ({"step": 500, "eval": {"test": make_result(0.5)}}, "of step 500 of 2,000"),
        ({"step": 2000, "eval": {"test": {"mse": 1.0, "count": 5}}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": {"test": make_result(None)}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": {"test": make_result("0.5")}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": {"test": make_result(1.5)}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": {"test": make_result(0.5, -3)}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": {"test": make_result(0.5, 10**400)}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": {"test": make_result(0.5, True)}}, "no top-1 accuracy"),
        ({"step": 2000, "eval": [1]}, "no top-1 accuracy"),
    ],
)
def test_results_that_cannot_be_used_are_a_problem(tmp_path, results, problem):
    run = read(write_run(tmp_path, results=results))
    assert problem in run.problem
    assert ("top-1" in problem or "results.json" in problem) == (not run.scores)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"model": 5, "data": {"image_size": ["a"]}}', "[" * 9999]
)
def test_settings_that_cannot_be_used_leave_the_accuracy(tmp_path, content):
    write_run(tmp_path, test=0.9)
    (tmp_path / "config.json").write_text(content)
    run = read(tmp_path)
    assert run.scores["test"].top1 == 0.9 and run.model == run.image_size == ""
    assert bool(run.problem) == (not content.startswith("{"))


def test_unfinished_runs_say_how_far_they_are(tmp_path):
    (write_run(tmp_path, test=0.9) / "results.json").unlink()
    (tmp_path / "checkpoints" / "1500").mkdir(parents=True)
    (tmp_path / "checkpoints" / "500").mkdir()
    expected = "the training has not finished; its newest checkpoint is of step 1,500"
    assert read(tmp_path).problem == expected
    (tmp_path / "origin.json").write_text("{}")
    assert read(tmp_path).problem == "converted weights, which have no results of a training"


def test_pipes_and_links_that_loop_do_not_block(tmp_path):
    write_run(tmp_path / "a", test=0.9)
    os.remove(tmp_path / "a" / "results.json")
    os.mkfifo(tmp_path / "a" / "results.json")
    assert "not a regular file" in read(tmp_path / "a").problem
    (tmp_path / "loop").symlink_to(tmp_path)
    assert epath.Path(tmp_path / "a") in list(find_runs(epath.Path(tmp_path)))


def test_runs_are_found_below_directories_but_not_below_runs(tmp_path):
    for name in ("b", "a/2", "a/1", ".hidden"):
        write_run(tmp_path / name, test=0.9)
    write_run(tmp_path / "b" / "inner", test=0.9)
    for name in ("c/2/3/4", "d/2/3/4/5"):
        write_run(tmp_path / name, test=0.9)
    (tmp_path / "empty").mkdir()
    found = [path.relative_to(tmp_path) for path in find_runs(epath.Path(tmp_path))]
    assert list(map(str, found)) == ["a/1", "a/2", "b", "c/2/3/4"]
