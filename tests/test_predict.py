"""Predictions are the model's, with the preprocessing and the class names of the run."""

import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, TINY, resolved
from etils import epath
from PIL import Image
from test_readme import example

from vit_jax import config as config_lib
from vit_jax import models, predict
from vit_jax import train as train_lib
from vit_jax.checkpoints import pretrained
from vit_jax.cluster import sharding
from vit_jax.console import cli
from vit_jax.data import transforms
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import ConfigError, DataError, InputMissingError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ROOT/SPLIT/CLASS/*: bright and dark images of any size; one of them is broken."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for name, low in (("bright", 150), ("dark", 0)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(low, low + 100, (9 + i % 3, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    (root / "val" / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return root


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    """A run trained on the folder."""
    tree = config_lib.to_config_dict(config_lib.Config())
    extra = {
        "data.root": str(folder),
        "data.val_split": "val",
        "data.test_split": "",
        "data.crop_fraction": "0.8",
        "model.num_classes": "0",
        "total_steps": "60",
    }
    config = config_lib.resolve(tree, {**TINY, **extra}).config
    workdir = tmp_path_factory.mktemp("run")
    train_lib.train(resolved(config), epath.Path(workdir))
    return workdir


def run(capsys, *argv):
    code = cli.run(predict.main, predict._flags(), "", ["predict", *argv], cli.parse_operands)
    return code, *capsys.readouterr()


def test_the_classes_of_the_folder_are_the_models(workdir):
    config = config_lib.read_config(epath.Path(workdir))
    assert config.model["num_classes"] == 2
    assert predict.Predictor(workdir).class_names == ("bright", "dark")


def test_top_1_is_that_of_evaluate(workdir, folder, capsys):
    code, out, _ = run(capsys, f"--workdir={workdir}", "--json", str(folder / "val"))
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 21
    found = {row["image"]: row["predictions"][0]["label"] for row in rows if "error" not in row}
    hits = [pathlib.Path(name).parent.name == label for name, label in found.items()]
    result = json.loads((workdir / "results.json").read_text())["eval"]["val"]
    assert (result["count"], result["skipped"]) == (20, 1)
    assert np.mean(hits) == result["top1"] > 0.9
    (broken,) = [row for row in rows if "error" in row]
    assert broken["image"].endswith("broken.jpg")


def test_probabilities_are_the_softmax_of_the_models_logits(workdir, folder):
    path = next((folder / "val" / "bright").glob("*.png"))
    ((first, second),) = predict.Predictor(workdir)([path])
    config = config_lib.read_config(epath.Path(workdir))
    mesh = sharding.make_mesh(config.mesh.sizes)
    with jax.set_mesh(mesh):
        run = pretrained.restore(epath.Path(workdir), "", config, mesh)
    pipeline = transforms.for_evaluation(config.data)
    pixels = pipeline(pipeline.decode(path.read_bytes()), np.random.default_rng(0))
    images = (pixels[None].astype(np.float32) / 255 - 0.5) / 0.25
    output = run.model.apply(run.variables, jnp.asarray(images), train=False)
    logits = np.asarray(output.logits[0])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-logits)
    assert [first.label, second.label] == [("bright", "dark")[k] for k in order]
    np.testing.assert_allclose(
        [first.probability, second.probability], probabilities[order], rtol=1e-5
    )


def test_every_form_of_an_image_gives_the_same(workdir, folder):
    path = next((folder / "val" / "dark").glob("*.png"))
    image = Image.open(path)
    forms = [str(path), path, path.read_bytes(), image, np.asarray(image)]
    predictions = predict.Predictor(workdir)(forms, topk=1)
    assert predictions == [predictions[0]] * 5
    assert len(predictions[0]) == 1


def test_grey_pixels_and_files_are_taken_by_a_model_of_one_channel(workdir):
    grey = np.full((8, 8), 200, np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "png")
    first, second, third = predict.Predictor(workdir)([grey, grey[..., None], file.getvalue()])
    assert first == second == third


def test_batches_do_not_change_predictions(workdir, folder):
    paths = sorted((folder / "val" / "bright").glob("*.png"))
    whole = predict.Predictor(workdir)(paths)
    for size in (1, 9):
        parts = predict.Predictor(workdir, batch_size=size)(paths)
        for left, right in zip(whole, parts, strict=True):
            assert [p.label for p in left] == [p.label for p in right]
            np.testing.assert_allclose([p[1] for p in left], [p[1] for p in right], rtol=1e-5)


def test_the_example_of_the_readme_runs(workdir, folder):
    code = example("Predictor").replace("runs/digits", str(workdir))
    exec(code.replace("new.png", str(folder / "val/dark/00.png")), {})  # noqa: S102


def test_one_image_imports_what_it_needs_and_no_more(workdir, folder):
    code = (
        "import runpy, sys\n"
        "try: runpy.run_module('vit_jax.predict', run_name='__main__')\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    image = next(folder.rglob("*.png"))
    argv = [sys.executable, "-c", code, f"--workdir={workdir}", str(image)]
    out = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True)
    modules = out.stderr.split()
    of_others = [name for name in modules if name.split(".")[0] != "vit_jax"]
    assert out.stdout.startswith(str(image)) and len(of_others) <= 1217
    heavy = {"tensorflow_datasets", "grain", "tensorboardX", "optax", "tensorflow", "torch"}
    assert not heavy & set(modules)


def test_a_broken_image_is_an_error_in_a_notebook(workdir, folder):
    with pytest.raises(DataError, match=r"broken\.jpg: "):
        predict.Predictor(workdir)([folder / "val" / "dark" / "broken.jpg"])
    with pytest.raises(DataError, match=r"image\[0\]: expected uint8"):
        predict.Predictor(workdir)([np.zeros((4, 4))])
    with pytest.raises(TypeError, match="expected a sequence"):
        predict.Predictor(workdir)("a.jpg")
    assert predict.Predictor(workdir)([]) == []


def test_a_predictor_takes_generators_open_files_and_batches(workdir, folder):
    predictor = predict.Predictor(workdir)
    paths = sorted((folder / "val" / "dark").glob("*0.png"))
    expected = predictor(paths)
    assert predictor(path for path in paths) == expected
    assert predictor(map(io.BytesIO, map(pathlib.Path.read_bytes, paths))) == expected
    batch = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert predictor(batch) == predictor(jnp.asarray(batch)) == expected


def test_a_number_of_classes_or_images_is_one_from_1_on(workdir):
    predictor = predict.Predictor(workdir)
    with pytest.raises(ConfigError, match="topk: expected an integer of at least 1, got 0"):
        predictor.stream([], topk=0)
    with pytest.raises(ConfigError, match="batch_size: expected an integer of at least 1, got -1"):
        predict.Predictor(workdir, batch_size=-1)
    for value in (0, -1, 1.0, "3", None, True, np.float32(2)):
        with pytest.raises(ConfigError, match="topk: expected an integer of at least 1, got"):
            predict._positive(value, "topk")
    assert predict._positive(np.int64(3), "topk") == 3


def test_preprocess_takes_what_a_predictor_takes(workdir, folder):
    trained = pretrained.from_pretrained(str(workdir))
    path = folder / "val" / "dark" / "00.png"
    pixels = np.asarray(Image.open(path))
    expected = trained.preprocess([path])
    file = io.BytesIO(path.read_bytes())
    for images in ([jnp.asarray(pixels)], pixels[None], [file], iter([str(path)])):
        np.testing.assert_array_equal(trained.preprocess(images), expected)
    for single in (pixels, str(path), path, path.read_bytes(), jnp.asarray(pixels)):
        with pytest.raises(
            TypeError, match=r"expected a sequence of images; \[image\] for a single"
        ):
            trained.preprocess(single)
    with pytest.raises(DataError, match=r"^nowhere\.png: no such file$"):
        trained.preprocess(["nowhere.png"])
    with pytest.raises(TypeError, match=r"sequence of names, got a string; use \['blocks_0'\]"):
        models.features(trained.model, trained.variables, expected, "blocks_0")


def test_a_line_an_image_broken_ones_skipped(workdir, folder, capsys):
    names = [folder / "val/bright/00.png", folder / "val/dark/broken.jpg", "nowhere.jpg"]
    code, out, err = run(capsys, *map(str, names), f"--workdir={workdir}", "--topk=9")
    assert (code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.startswith(f"{names[0]}  ")
    assert first.count("%") == 2
    assert second.startswith(f"{names[1]}  skipped: ")
    assert third == "nowhere.jpg  skipped: no such file"


def test_names_do_nothing_to_a_terminal_and_are_kept_in_json(
    workdir, folder, tmp_path, capsys, monkeypatch
):
    names = [
        "frame:100:01.png",
        "日本.png",
        "\x1b[31mred\n.png",
        "\x7f.png",
        os.fsdecode(b"b\xff.png"),
    ]
    content = (folder / "val/bright/00.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in names:
        pathlib.Path(name).write_bytes(content)
    code, out, _ = run(capsys, f"--workdir={workdir}", "--json", *names)
    assert code == 0 and out.isascii()
    assert [json.loads(line)["image"] for line in out.splitlines()] == names
    code, out, _ = run(capsys, f"--workdir={workdir}", *names)
    shown = ["frame:100:01.png", "日本.png", "\\x1b[31mred\\n.png", "\\x7f.png", "b\\udcff.png"]
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == shown
    file = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", file)
    assert run(capsys, f"--workdir={workdir}", *names)[0] == 0
    file.flush()
    assert file.buffer.getvalue().decode("latin-1").splitlines()[1].startswith("\\u65e5\\u672c.png")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["nowhere.jpg"], 66, "nowhere.jpg: no such file"),
        (["nowhere.jpg", "no/folder"], 66, "nowhere.jpg, no/folder: no such file"),
        ([], 64, "IMAGE: expected images or folders of images after the flags"),
        (["--topk=0", "a.jpg"], 64, "--topk: expected at least 1, got 0"),
        (["--step=77", __file__], 66, "--step=77: no such checkpoint; there are 60"),
        (["--config.data.flip=1", "a.jpg"], 64, "--config.data.flip: no such flag"),
    ],
)
def test_a_wrong_flag_is_one_line(workdir, capsys, flags, code, message):
    got, _, err = run(capsys, f"--workdir={workdir}", *flags)
    assert got == code
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_directory_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(InputMissingError, match="expected the work directory of a run"):
        predict.Predictor(tmp_path)
    code, _, err = run(capsys, "a.jpg")
    assert code == 64
    assert err.startswith("error: --workdir: expected the work directory of a run")


def test_classes_are_those_of_the_run_wherever_it_is_evaluated(workdir, folder, tmp_path):
    config = config_lib.read_config(epath.Path(workdir))
    (tmp_path / "val" / "dark").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "val" / "dark" / "1.png")
    data = config_lib.Data(root=str(tmp_path), val_split="val")
    assert config.data.root == str(folder)
    source = open_split(data, "val_split", predict.Predictor(workdir).class_names)
    assert source[0]["label"] == 1


def test_an_output_that_is_not_a_number_is_no_prediction(workdir, folder, monkeypatch, capsys):
    predictor = predict.Predictor(workdir)
    real = predictor._top

    def broken(*args):
        classes, scores = real(*args)
        return classes, scores.at[1].set(np.nan)

    monkeypatch.setattr(predictor, "_top", broken)
    images = [str(path) for path in sorted(folder.rglob("*.png"))[:3]]
    first, second, third = predictor.stream(images)
    assert first.predictions and third.predictions
    assert (second.predictions, second.error) == ([], "the output of the model is not finite")
