"""The command that compares runs: what it finds, prints and writes, and that it never aborts."""

import json
import os

import pytest
from run_folders import write_run

from vit_jax import compare
from vit_jax.console import cli


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Makes four runs, of which one is unfinished and one broken, and works beside them."""
    write_run(tmp_path / "runs" / "a", test=0.9, val=0.95)
    write_run(tmp_path / "runs" / "b", test=0.8)
    (write_run(tmp_path / "runs" / "c", test=0.1) / "results.json").unlink()
    write_run(tmp_path / "runs" / "sweep" / "d", results="{")
    monkeypatch.chdir(tmp_path)


def call(*operands):
    return cli.run(compare.main, compare._flags(), "", ["compare", *operands], cli.parse_operands)


def test_a_directory_of_runs(runs, capsys):
    assert call("runs") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "digits, test, 360 images"
    assert lines[2].split()[:6] == ["a", "90.00", "%", "(86.47", "%", "to"]
    assert lines[3].split()[0] == "b" and "behind the best" in lines[3]
    assert lines[5] == "without a top-1 accuracy"
    assert lines[6] == "  c: the training has not finished; it has no checkpoint"
    assert lines[7].startswith("  sweep/d: results.json: not valid JSON")
    assert not err


@pytest.mark.parametrize(
    ("operands", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/b", "runs/a", "runs/../runs/b"], ["a", "b"]),
        (["runs/[ab]"], ["a", "b"]),
        (["runs/a", "runs/sweep"], ["a", "sweep/d"]),
        (["runs/a", "missing"], ["runs/a", "missing"]),
    ],
)
def test_json_has_a_line_for_each_run_that_is_asked_for(runs, capsys, operands, names):
    assert call(*operands, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [run["name"] for run in found] == names
    for run in found:
        assert bool(run["scores"]) == bool(run["standing"]) == bool(run["ranked_on"])
        assert bool(run["problem"]) != bool(run["scores"])


def test_a_link_is_the_run_that_it_leads_to(runs, capsys):
    os.symlink("a", "runs/newest")
    assert call("runs/newest", "runs/a", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_page_is_written(runs, capsys):
    assert call("runs", "--output=pages/board.html") == 0
    with open("pages/board.html") as file:
        page = file.read()
    assert page.startswith("<!doctype html>") and "sweep/d" in page
    assert "written   pages/board.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("operands", "code", "message"),
    [
        ([], 64, "RUNS: expected run folders, or directories of runs"),
        (["missing"], 66, "missing: no runs there"),
        (["runs", "--output=board.pdf"], 64, "--output: expected the path of an .html file"),
        (["runs", "--output=folder.html"], 64, "folder.html is a directory"),
        (["runs", "--output=file/board.html"], 73, "--output: cannot write"),
    ],
)
def test_errors_are_one_line(runs, capsys, operands, code, message):
    os.mkdir("folder.html")
    open("file", "w").close()
    assert call(*operands) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
