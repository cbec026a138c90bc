"""Runs on folders of images say what became of the files."""

import os

import numpy as np
import pytest
from conftest import TINY, resolved
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import evaluate, predict
from vit_jax.checkpoints import reading
from vit_jax.console import cli
from vit_jax.errors import DataError
from vit_jax.training.loop import train

NOTES = [
    "{root}/Training is read as train",
    "skipped in {root}/Training: 2 .heic, 1 folder @eaDir",
    "'val' has no image of 1 of the 12 classes: 3",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders 0 to 11 of 4 images, in Training and val; val lacks 3."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split in ("Training", "val"):
        for k in range(12):
            (root / split / str(k)).mkdir(parents=True)
            for i in range(0 if (split, k) == ("val", 3) else 4):
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(root / split / str(k) / f"{i}.png")
    for name in ("a.heic", "b.heic", "@eaDir/0.png"):
        path = root / "Training/7" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return root


def settings(folder, **extra):
    given = {
        **TINY,
        "data.root": str(folder),
        "data.val_split": "val",
        "data.test_split": "",
        "model.num_classes": "0",
        "total_steps": "1",
        **extra,
    }
    tree = config_lib.to_config_dict(config_lib.Config())
    return resolved(config_lib.resolve(tree, given).config)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    train(settings(folder), workdir)
    return workdir


def lines(capsys, start="note      "):
    out = capsys.readouterr().out.splitlines()
    return [line.removeprefix(start) for line in out if line.startswith(start)]


def test_train_says_once_what_it_passed_over_also_when_resumed(folder, workdir, capsys):
    train(settings(folder), workdir)
    assert lines(capsys) == [note.format(root=folder) for note in NOTES]


def run_evaluate(capsys, *flags):
    code = cli.run(evaluate.main, evaluate._flags(), "", ["evaluate", *flags])
    return code, *capsys.readouterr()


def test_evaluate_says_it_too(folder, workdir, capsys):
    code, out, _ = run_evaluate(capsys, f"--workdir={workdir}", "--split=val")
    assert code == 0
    assert f"note      {NOTES[2]}\n" in out and "(44 images)" in out
    assert "have no class names" not in out


def test_evaluate_takes_val_of_a_folder_without_test(folder, workdir, capsys, tmp_path):
    for flags in ([], [f"--config.data.root={folder}"]):
        code, out, _ = run_evaluate(capsys, f"--workdir={workdir}", *flags)
        assert code == 0 and "(44 images)" in out
        assert out.count("note      --split=val, as the run has no test split\n") == 1
    code, _, err = run_evaluate(capsys, f"--workdir={workdir}", "--split=test")
    assert code == 64 and err.count("\n") == 1
    assert err.startswith("error: --split: no split 'test' in ")
    assert err.endswith("; the run has train, val\n")
    for k in range(12):
        (tmp_path / "train" / str(k)).mkdir(parents=True)
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "test" / str(k)).symlink_to(folder / "Training" / str(k))
    code, out, _ = run_evaluate(capsys, f"--workdir={workdir}", f"--config.data.root={tmp_path}")
    assert code == 0 and "test: top-1" in out and "(48 images)" in out


def test_weights_without_class_names_are_evaluated_only_where_the_order_is_clear(
    folder, workdir, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(reading, "read_class_names", lambda *_: ())
    flags = [f"--workdir={workdir}", "--split=val"]
    code, _, err = run_evaluate(capsys, *flags)
    assert code == 65 and err.count("\n") == 1
    assert "the folders are 0, 1, 10, 11, 2, ... as texts, in another order as numbers" in err
    for k in range(12):
        (tmp_path / "val" / f"{k:02}").mkdir(parents=True)
        (tmp_path / f"val/{k:02}/link").symlink_to(folder / "val" / str(k))
    code, out, _ = run_evaluate(capsys, *flags, f"--config.data.root={tmp_path}")
    note = "the weights have no class names: their outputs are taken for 00, 01, 02, 03, 04, ..."
    assert (code, f"note      {note}\n" in out) == (0, True)


def test_predict_says_on_stderr_what_it_passed_over(folder, workdir, capsys):
    argv = ["predict", f"--workdir={workdir}", "--json", str(folder / "Training/7")]
    code = cli.run(predict.main, predict._flags(), "", argv, cli.parse_operands)
    out, err = capsys.readouterr()
    assert (code, out.count("\n")) == (0, 4)
    assert err == f"warning: {folder}/Training/7: skipped 2 .heic, 1 folder @eaDir\n"


def test_one_class_is_nothing_to_learn(folder, tmp_path):
    root = tmp_path / "data"
    (root / "photos").mkdir(parents=True)
    (root / "photos/numbers").symlink_to(folder / "Training")
    expected = (
        r"/data: expected at least two classes; one class only: photos; "
        r".*/numbers has 0/ and 1/ and 10/"
    )
    with pytest.raises(DataError, match=expected):
        train(settings(root, **{"data.val_split": ""}), epath.Path(tmp_path / "run"))


def test_pipes_and_devices_are_unreadable_images(folder, workdir, tmp_path, capsys):
    (tmp_path / "val").mkdir()
    for k in range(12):
        (tmp_path / "val" / str(k)).symlink_to(folder / "Training" / str(k))
    os.mkfifo(folder / "Training/5/pipe.png")
    try:
        flags = ["--split=val", f"--config.data.root={tmp_path}"]
        code, out, err = run_evaluate(capsys, f"--workdir={workdir}", *flags)
    finally:
        os.remove(folder / "Training/5/pipe.png")
    assert (code, "(48 images, 1 skipped)" in out or '"skipped": 1' in out) == (0, True)
    assert "pipe.png: cannot be read: it is not a regular file" in err
