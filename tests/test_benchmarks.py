"""The benchmarks, as small as they get: rows, tables, a plot, a ratio."""

import json
import sys

import pytest
from conftest import ROOT

from vit_jax.console import cli

sys.path.insert(0, str(ROOT / "benchmarks"))
import architectures
import augmentation
import loader


def run(capsys, *argv):
    code = cli.run(architectures.main, architectures._flags(), "", ["architectures", *argv])
    return code, *capsys.readouterr()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Returns the flags of the smallest run."""
    monkeypatch.setattr(architectures, "TOKENS", (4, 16))
    monkeypatch.setattr(architectures, "TOKENS_A_STEP", 16)
    monkeypatch.setattr(architectures, "REPEATS", 1)
    tiny = {"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8, "attention.window": (2, 2)}
    for name in ("SMALL", "LARGE"):
        monkeypatch.setitem(vars(architectures), name, {**vars(architectures)[name], **tiny})
    digits = ["--data=digits", "--epochs=3", "--seeds=0", "--tokens=4,16"]
    return [f"--output={tmp_path}", *digits, ""]


def test_a_run_writes_rows_tables_and_a_plot_and_measures_nothing_twice(small, capsys, tmp_path):
    small[-1] = "--only=attention/full"
    assert run(capsys, *small)[0] == 0
    small[-1] = "--only=attention/linear"
    code, out, err = run(capsys, *small)
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "architectures.json").read_text())
    assert {key.split("/", 1)[0] for key in rows} == {"facts", "accuracy", "cost"}
    assert 0 < rows["accuracy/base/0"]["top1"] < 1
    assert rows["cost/16/attention/linear"]["step_mib"] > 0
    text = (tmp_path / "architectures.md").read_text()
    assert "| linear | " in text and "(1.00x)" in text
    assert (tmp_path / "attention_cost.png").stat().st_size > 10_000
    code, out, _ = run(capsys, *small)
    assert (code, out.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "--output: expected a folder"),
        (["--output=x", "--part=half"], "--part: unknown 'half'"),
        (["--output=x", "--only=attention/none"], "--only: 'attention/none' means none"),
    ],
)
def test_a_mistake_is_one_line(flags, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *flags)
    assert (code, err.count("\n")) == (64, 1)
    assert err.startswith(f"error: {problem}")


def test_the_benchmark_of_augmentation_prints_a_ratio(capsys, monkeypatch):
    argv = ["augmentation", "--images=2", "--repeats=1"]
    monkeypatch.setattr(augmentation.importlib.util, "find_spec", lambda name: None)
    assert cli.run(augmentation.main, augmentation._flags(), "", argv) == 66
    assert "timm is not installed" in capsys.readouterr().err
    monkeypatch.setattr(augmentation, "timms_policy", lambda: lambda image: image)
    assert cli.run(augmentation.main, augmentation._flags(), "", argv) == 0
    out = capsys.readouterr().out
    assert "ratio" in out and "normalized, erased and mixed" in out
    image = augmentation.pictures(1)[0]
    assert augmentation.theirs(lambda image: image)(image).shape == (224, 224, 3)
    assert augmentation.ours()(image).shape == (224, 224, 3)


def test_the_benchmark_of_the_loader_reads_the_files_that_it_wrote(capsys, monkeypatch):
    read = []

    def speeds(data, num, repeats, measure=loader.speeds):
        read.append(measure(data, num, repeats))
        return read[-1]

    monkeypatch.setattr(loader, "speeds", speeds)
    argv = ["loader", "--images=2", "--repeats=1"]
    assert cli.run(loader.main, loader._flags(), "", argv) == 0
    out = capsys.readouterr().out
    assert "2 JPEG files of 500x375 pixels, 110 kB each" in out
    assert [len(found) for found in read] == [1, 1] and min(min(found) for found in read) > 0
    assert out.count("images per CPU second") == len(loader.RECIPES)
