"""Figures show their input, and display without pyplot."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from vit_jax import viz
from vit_jax.errors import InputMissingError
from vit_jax.predict import Prediction
from vit_jax.viz import curves, grids


def render(figure):
    """Returns the pixels that a notebook would show."""
    png, size = figure._repr_png_()
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (2 * size["width"], 2 * size["height"])
        return np.asarray(image.convert("RGB"))


def texts(figure):
    """Returns all texts of a figure."""
    strings = [text.get_text() for axes in figure.axes for text in axes.texts]
    strings += [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center")]
    strings += [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    for axes in figure.axes:
        if axes.get_legend():
            strings += [text.get_text() for text in axes.get_legend().get_texts()]
    return [string for string in strings if string]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture
def write_run(tmp_path):
    """Returns a function that writes the metrics of a run so far, as a workdir has them."""

    def write(steps, evaluations, broken=""):
        rows = [
            {"step": step, "loss": 2.0 / step if step != 3 else None, "learning_rate": 1e-3 / step}
            for step in range(1, steps + 1)
        ]
        rows += [{"step": step, f"{name}/top1": top1} for name, step, top1 in evaluations]
        lines = [json.dumps(row) for row in sorted(rows, key=lambda row: row["step"])]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n" + broken)
        return str(tmp_path)

    return write


def test_curves_show_every_step_and_evaluation(write_run):
    evaluations = [("val", 10, 0.5), ("val", 20, 0.75), ("test", 20, 0.625)]
    figure = viz.training_curves(write_run(20, evaluations))
    loss, rate, top1 = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, *range(4, 21)])  # 3: no number
    np.testing.assert_allclose(rate.lines[0].get_ydata(), 1e-3 / np.arange(1, 21))
    val, test = top1.lines
    assert (list(val.get_xdata()), list(val.get_ydata())) == ([10, 20], [0.5, 0.75])
    assert list(test.get_ydata()) == [0.625]
    assert {"val 75.0%", "test 62.5%"} <= set(texts(figure))
    assert top1.get_ylim()[0] < 0.5
    render(figure)


def test_curves_of_an_unfinished_run(write_run):
    figure = viz.training_curves(write_run(5, [], broken='{"step": 6, "lo'))
    assert "no evaluation yet" in texts(figure)
    assert figure.axes[0].lines[0].get_xdata()[-1] == 5
    assert render(viz.training_curves(write_run(1, []))).std() > 0


def test_curves_of_a_perfect_run(write_run):
    low, high = viz.training_curves(write_run(2, [("val", 2, 1.0)])).axes[2].get_ylim()
    assert low < 1.0 <= high


def test_curves_without_a_run_are_an_error(tmp_path):
    with pytest.raises(InputMissingError, match="no training step logged"):
        viz.training_curves(tmp_path)


def test_the_smoothed_loss_keeps_the_level():
    np.testing.assert_allclose(curves._smooth(np.full(1000, 3.0)), 3.0)
    values = np.random.default_rng(0).normal(size=1000)
    smooth = curves._smooth(values)
    assert smooth.std() < values.std() / 3
    np.testing.assert_allclose(smooth[500], values[490:511].mean())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grid_shows_every_image(channels):
    images = noise(5, 6, 4, channels)
    figure = viz.image_grid(images, columns=3)
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == 5
    for image, shown in zip(images, drawn, strict=True):
        np.testing.assert_array_equal(shown[..., 0], image[..., 0])
    render(figure)


def test_a_grid_marks_mistakes():
    titles = ["4", "9 (97%), is 4", "1"]
    figure = viz.image_grid(noise(3, 6, 6, 1), titles, [False, True, False])
    assert texts(figure) == ["4", "✗ 9 (97%), is 4", "1"]
    colors = [axes.spines["left"].get_edgecolor() for axes in figure.axes]
    assert colors[0] == colors[2] != colors[1]


def overlaps(figure):
    """Returns the pairs of texts that cover each other."""
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes if axes.title.get_text()]
    boxes = [title.get_window_extent() for title in titles]
    return [(i, j) for j in range(len(boxes)) for i in range(j) if boxes[i].overlaps(boxes[j])]


def test_long_titles_do_not_overlap():
    titles = ["a golden retriever, is a labrador retriever", "Rhinolophus-ferrumequinum"] * 4
    assert not overlaps(viz.image_grid(noise(8, 6, 6, 3), titles, [True] * 8, columns=4))


@pytest.mark.parametrize(("size", "patch"), [((16, 16), (4, 4)), ((32, 24), (4, 2))])
def test_patches_are_those_of_the_image_in_order(size, patch):
    image = noise(*size, 3)
    whole, cut, row = (axes.images for axes in viz.patches(image, patch).axes)
    assert len(cut) == size[0] // patch[0] * (size[1] // patch[1])
    pieces = [piece.get_array()[..., :3] for piece in cut]
    across = size[1] // patch[1]
    rebuilt = [np.hstack(pieces[i : i + across]) for i in range(0, len(pieces), across)]
    np.testing.assert_array_equal(np.vstack(rebuilt), image)
    np.testing.assert_array_equal(whole[0].get_array()[..., :3], image)
    tokens = [piece.get_array()[..., :3] for piece in row]
    assert len(tokens) <= 1 + grids.MAX_TOKENS
    np.testing.assert_array_equal(tokens[1], pieces[0])
    np.testing.assert_array_equal(tokens[-1], pieces[-1])


def test_only_the_first_and_last_of_many_patches_are_shown():
    few, many = (viz.patches(noise(n, n, 1), (4, 4)) for n in (16, 64))
    numbers = [text.get_text() for text in few.axes[2].texts]
    assert numbers == ["class", *(str(i) for i in range(1, 17))]
    numbers = [text.get_text() for text in many.axes[2].texts]
    assert numbers == ["class", *(str(i) for i in range(1, 16)), "…", "256"]


def test_predictions_show_every_kind_of_image(tmp_path):
    pixels = noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    grey = pixels[..., :1]
    images = [tmp_path / "a.png", str(tmp_path / "a.png"), content, Image.fromarray(pixels), pixels]
    predicted = [[Prediction("cat", 0.75), Prediction("dog", 0.2)]] * 5 + [[Prediction("cow", 0.5)]]
    figure = viz.predictions([*images, grey], predicted)
    for left in figure.axes[:-2:2]:
        np.testing.assert_array_equal(left.images[0].get_array()[..., :3], pixels)
    widths = [[bar.get_width() for bar in right.patches] for right in figure.axes[1::2]]
    assert widths == [[0.75, 0.2]] * 5 + [[0.5]]
    assert {"cat", "dog", "cow", "75.0%", "20.0%", "50.0%"} <= set(texts(figure))
    assert render(figure).std() > 10


def test_no_pyplot_and_a_hint_without_matplotlib():
    code = """
import sys, numpy as np
from vit_jax import viz
from vit_jax.errors import InputMissingError
from vit_jax.viz import drawing
print("matplotlib" in sys.modules)
viz.image_grid(np.zeros((1, 2, 2, 1), np.uint8))._repr_png_()
print("matplotlib.pyplot" in sys.modules)
drawing.figure_class.cache_clear()
sys.modules["matplotlib.figure"] = None
try:
    viz.image_grid(np.zeros((1, 2, 2, 1), np.uint8))
except InputMissingError as error:
    print(error)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    before, after, error = out.stdout.splitlines()
    assert (before, after) == ("False", "False")
    assert "pip install 'vit_jax[plot]'" in error
