"""Reports of real runs: what they show, where their time is booked, and that they fail nothing."""

import base64
import io
import json
import re

import numpy as np
import pytest
from conftest import resolved
from etils import epath
from PIL import Image

from vit_jax import evaluate as evaluate_command
from vit_jax import train as train_command
from vit_jax.config import Data
from vit_jax.console import cli
from vit_jax.data.sources.synthetic import Synthetic
from vit_jax.evaluation.predictions import Predictions
from vit_jax.reporting import writing
from vit_jax.reporting.exhibits import MAX_POINTS, make_exhibit, project
from vit_jax.reporting.maps import ImageMaps
from vit_jax.training.loop import train

SHORT = {"total_steps": "2", "model.depth": "1", "eval.every_steps": "0"}


def predict(num_images, width=5, num_classes=10):
    rng = np.random.default_rng(0)
    return Predictions(
        name="test",
        title="random:test",
        ids=tuple(f"test[{i}]" for i in range(num_images)),
        indices=np.arange(num_images),
        labels=rng.integers(0, num_classes, num_images),
        logits=rng.normal(size=(num_images, num_classes)).astype(np.float32),
        features=(rng.normal(size=(num_images, width)) * np.arange(width)).astype(np.float32),
        class_names=tuple(map(str, range(num_classes))),
        loss="softmax",
        skipped=0,
    )


def read_uri(uri):
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_features_are_projected_to_the_plane_of_largest_variance():
    predictions = predict(40)
    found = project(predictions)
    centred = np.float64(predictions.features) - predictions.features.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(
        found.explained_variance_ratio, (singular**2 / (singular**2).sum())[:2], rtol=1e-6
    )
    expected = centred @ directions[:2].T
    np.testing.assert_allclose(abs(found.points), abs(expected), atol=1e-5)
    assert found.predicted.tolist() == predictions.logits.argmax(axis=1).tolist()


def test_many_features_are_a_sample_of_the_whole_set():
    found = project(predict(50_000))
    assert len(found.points) == len(set(found.ids)) == MAX_POINTS
    assert (found.ids[0], found.ids[-1], found.total) == ("test[0]", "test[49999]", 50_000)


def test_features_without_a_plane_are_not_shown():
    assert project(predict(2)) is None
    assert project(predict(9, width=1)) is None
    flawed = predict(9)
    flawed.features[3] = np.nan
    assert project(flawed).total == 8


def test_a_picture_is_what_the_model_gets_beside_its_map():
    data = Data(name="synthetic", image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    source = Synthetic(data, "test")
    maps = ImageMaps("by hand", np.eye(2, dtype=np.float32)[None])
    exhibit = make_exhibit(predict(5), source, data, [3], lambda pixels, classes: maps)
    picture = exhibit.thumbnails[3]
    pixels = read_uri(picture.image)
    assert pixels.shape == (8, 8, 3) and picture.is_small
    assert pixels[..., 0].tolist() == source[3]["image"][..., 0].tolist()
    shown = read_uri(picture.map).astype(int).sum(axis=-1)
    assert shown[:4, :4].min() > shown[:4, 4:].max()


@pytest.mark.parametrize("outputs", [None, np.arange(10, 15)])
def test_maps_are_of_the_outputs_that_were_predicted(outputs):
    data = Data(name="synthetic", image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    mapped = []

    def map_nothing(pixels, classes):
        mapped.extend(classes.tolist())
        return ImageMaps("none")

    made = predict(5)._replace(indices=np.array([1, 2, 4, 5, 9]), outputs=outputs)
    make_exhibit(made, Synthetic(data, "test"), data, [9, 2], map_nothing)
    expected = made.logits.argmax(axis=1) if outputs is None else outputs
    assert mapped == [expected[4], expected[1]]


def run_with_report(tiny_config, workdir, **changes):
    config = tiny_config({**SHORT, "data.val_split": "test[:9]", **changes})
    return train(resolved(config), epath.Path(workdir), report=epath.Path(workdir) / "page")


def test_the_end_of_a_run_is_a_report_of_its_test_set(tiny_config, tmp_path, capsys):
    changes = {"optim.ema_decay": "0.5", "data.val_split": "train[:9]"}
    results = run_with_report(tiny_config, tmp_path, **changes)
    page = (tmp_path / "page" / "index.html").read_text()
    assert f"report    {tmp_path / 'page' / 'index.html'}" in capsys.readouterr().out
    (shown,) = re.findall(r"<dt>Top-1 accuracy</dt><dd>([\d.]+) %</dd>", page)
    assert float(shown) == pytest.approx(100 * results["eval"]["test"]["top1"], abs=0.005)
    assert "Set test</h2>" in page and "moving average of the weights" in page
    assert "images of val. The accuracy stays the same." in page  # the temperature
    assert page.count("data:image/png") > 20
    for label in ("val", "val_raw", "test", "test_raw"):
        assert f'<th scope="col" class="number">{label}</th>' in page


def evaluate(workdir, *argv):
    argv = ["evaluate", f"--workdir={workdir}", *argv]
    return cli.run(evaluate_command.main, evaluate_command._flags(), "", argv)


def test_evaluate_writes_a_report_of_its_sets_beside_another_run(tiny_config, tmp_path, capsys):
    for name, seed in (("one", "0"), ("two", "1")):
        config = tiny_config({**SHORT, "data.val_split": "test[:9]", "seed": seed})
        train(resolved(config), epath.Path(tmp_path / name))
    one, page = tmp_path / "one", tmp_path / "page" / "index.html"
    against = f"--against={tmp_path / 'two'}"
    assert evaluate(one, "--split=val,test", against, f"--report={page.parent}") == 0
    text = page.read_text()
    assert "Set val</h2>" in text and "Set test</h2>" in text and "two (other)" in text
    assert "(Chefer et al. 2021), read from the class token" in text
    row = '<th scope="row">seed</th><td>0</td><td>1</td>'
    assert row in text
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    difference = 100 * results["against"]["test"]["difference"]["value"]
    assert f"{difference:+.2f} points" in text


def test_the_headline_is_that_of_the_first_set(tiny_config, tmp_path, capsys):
    train(resolved(tiny_config({**SHORT, "data.val_split": "test[:9]"})), epath.Path(tmp_path))
    assert evaluate(tmp_path, "--split=test,val", f"--report={tmp_path / 'page'}") == 0
    summary = (tmp_path / "page" / "index.html").read_text().split("All sets")[0]
    assert "<h3>Set test</h3>" in summary and "<h3>Set val</h3>" not in summary
    assert evaluate(tmp_path, f"--report={tmp_path / 'page' / 'index.html'}") == 64
    assert "--report: expected a directory, got the file" in capsys.readouterr().err


def test_a_model_without_maps_says_why(tiny_config, tmp_path):
    run_with_report(tiny_config, tmp_path, **{"model.attention.name": "reduced"})
    page = (tmp_path / "page" / "index.html").read_text()
    assert "There are no maps: reduced" in page and page.count("data:image/png") > 10


def test_a_run_without_test_split_shows_val(tiny_config, tmp_path):
    run_with_report(tiny_config, tmp_path, **{"data.test_split": ""})
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Set val</h2>" in page and "Temperature" not in page


@pytest.mark.parametrize("test_split", ["", "test"])
def test_a_run_that_resumes_at_its_end_has_the_same_report(tiny_config, tmp_path, test_split):
    changes = {"data.test_split": test_split, "data.val_split": "train[:9]"}
    first = run_with_report(tiny_config, tmp_path, **changes)
    page = (tmp_path / "page" / "index.html").read_text()
    rows = (tmp_path / "metrics.jsonl").read_text().count("val/top1")
    (tmp_path / "results.json").unlink()
    assert run_with_report(tiny_config, tmp_path, **changes)["eval"] == first["eval"]
    again = (tmp_path / "page" / "index.html").read_text()
    headings = re.findall(r"<h[23][ >].*?</h[23]>", page)
    assert re.findall(r"<h[23][ >].*?</h[23]>", again) == headings
    assert ("Temperature" in again) == ("Temperature" in page) == bool(test_split)
    assert (tmp_path / "metrics.jsonl").read_text().count("val/top1") == rows


def test_a_temperature_is_not_fitted_on_images_of_the_test_set(tiny_config, tmp_path):
    run_with_report(tiny_config, tmp_path, **{"data.val_split": "test[:9]"})
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Set test</h2>" in page and "Temperature" not in page


def test_a_report_that_fails_is_a_warning_and_the_run_is_complete(
    tiny_config, tmp_path, capsys, monkeypatch
):
    def broken(content):
        raise MemoryError("no room\nfor it")

    monkeypatch.setattr(writing, "render", broken)
    results = run_with_report(tiny_config, tmp_path)
    assert results["step"] == 2 and (tmp_path / "results.json").exists()
    assert not (tmp_path / "page").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "no report" in line]
    assert line.endswith(f"there is no report in {tmp_path / 'page'}: MemoryError no room for it")


def test_a_report_takes_no_time_from_the_steps(tiny_config, tmp_path, monkeypatch):
    import time

    from vit_jax.training import goodput

    histories = []
    monkeypatch.setattr(writing, "render", lambda content: time.sleep(1.0) or "")
    monkeypatch.setattr(goodput, "describe", lambda history: histories.append(history) or "")
    results = run_with_report(tiny_config, tmp_path)
    (history,) = histories
    before = results["goodput"]["seconds"]
    assert history.account.seconds["evaluation"] >= before["evaluation"] + 1.0
    assert history.account.seconds["steps"] == pytest.approx(before["steps"], abs=1e-3)


def test_a_trained_run_has_a_report_unless_the_flag_is_empty(tmp_path):
    values = train_command._flags()
    values(["train", "--workdir=x"])
    find = train_command._find_report
    assert find(values.report, epath.Path("x")) == epath.Path("x/report")
    assert find("", epath.Path("x")) is None
    assert find(str(tmp_path), epath.Path("x")) == epath.Path(tmp_path)
