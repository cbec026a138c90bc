"""Pictures for notebooks: training curves, images, patches, predictions.

Every function returns a Matplotlib figure, which shows itself as the last expression of a cell;
`figure.savefig("curves.png")` writes it. The colours are distinct to the colour-blind.
"""

import functools
import io
import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vit_jax.console.metrics_writer import read_metrics
from vit_jax.console.workdir import open_path
from vit_jax.data import images as images_lib
from vit_jax.data.images import AnyImage
from vit_jax.errors import InputMissingError

if TYPE_CHECKING:
    import matplotlib.figure

# Of Okabe and Ito's palette, and greys.
BLUE, ORANGE, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#B8B8B8"

MAX_PIXELS = 64_000_000  # of an image file
MAX_TOKENS = 16  # patches that `patches` shows in a row
GAP = 0.12  # between patches, of their width


def training_curves(workdir: str | pathlib.Path) -> "matplotlib.figure.Figure":
    """Draws loss, learning rate and accuracy over the steps of a run, finished or not.

    Args:
      workdir: Of the run, local or in an object store.

    Raises:
      InputMissingError: No step has been written there.
    """
    path = open_path(str(workdir), "workdir") / "metrics.jsonl"
    series: dict[str, dict[int, float]] = {}
    for row in read_metrics(path):
        for key, value in row.items():
            if value is not None:  # in place of a loss that was no number
                series.setdefault(key, {})[row["step"]] = value
    if "loss" not in series:
        raise InputMissingError(f"{path}: no step yet; expected the work directory of a run")
    curves = {
        key: (np.array(list(points)), np.array(list(points.values())))
        for key, points in series.items()
    }
    figure = _figure(10.5, 2.9)
    panels = figure.subplots(1, 3)
    loss, rate, top1 = panels
    for axes, title in zip(
        panels, ("training loss", "learning rate", "top-1 accuracy"), strict=True
    ):
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("step", color=INK)
        axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10], integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#EEEEEE")
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1.03 * curves["step"][0][-1])

    steps, values = curves["loss"]
    loss.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
    loss.plot(steps, _smooth(values), color=BLUE, linewidth=1.8)
    loss.set_ylim(0, 1.1 * np.percentile(values, 99.5) + 1e-6)
    rate.plot(*curves["learning_rate"], color=INK, linewidth=1.8)
    rate.set_ylim(bottom=0)
    rate.locator_params(axis="y", nbins=5)
    rate.yaxis.set_major_formatter("{x:g}")
    top1.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g}%")
    lowest = 1.0
    # Of a run with a moving average, `raw` is without it.
    lines = (("val_raw", "o:", INK), ("val", "o-", BLUE), ("test", "D", ORANGE))
    for name, style, color in lines:
        if (key := f"{name}/top1") in curves:
            steps, values = curves[key]
            top1.plot(steps, values, style, color=color, label=f"{name} {values[-1]:.1%}", zorder=3)
            lowest = min(lowest, *values)
    if top1.lines:
        top1.set_ylim(max(0.0, min(1.5 * lowest - 0.5, 0.9)), 1.005)
        top1.locator_params(axis="y", nbins=5)
        top1.legend(loc="lower right", frameon=False, labelcolor=INK)
    else:
        top1.set_yticks([])
        top1.text(0.5, 0.5, "no evaluation yet", transform=top1.transAxes, ha="center", color=INK)
    return figure


def image_grid(
    images: UInt8[np.ndarray, "n h w c"],
    titles: Sequence[str] = (),
    wrong: Sequence[bool] = (),
    columns: int = 8,
) -> "matplotlib.figure.Figure":
    """Draws images side by side.

    Args:
      images: With 1 to 4 channels: grey, with alpha, colour, with alpha.
      titles: One above each, or none at all.
      wrong: Which of them show a mistake, and get a cross and a frame.
      columns: Images in a row, at most.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = _figure(1.3 * columns, (1.55 if titles else 1.3) * rows)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= len(images):
            axes.set_axis_off()
            continue
        bad = i < len(wrong) and wrong[i]
        _show(axes, images[i], ORANGE if bad else FAINT, 2.5 if bad else 0.8)
        if titles:
            text = textwrap.fill(f"✗ {titles[i]}" if bad else titles[i], 17)
            axes.set_title(text, fontsize=9, color=ORANGE if bad else INK, pad=4)
    return figure


def patches(image: UInt8[np.ndarray, "h w c"], patch: Sequence[int]) -> "matplotlib.figure.Figure":
    """Draws what a Vision Transformer reads: an image, its patches, and all of them in a row.

    Args:
      image: Of the model's size.
      patch: Height and width of a patch.
    """
    (height, width, channels), (down, across) = image.shape, patch
    grid = image.reshape(height // down, down, width // across, across, channels).swapaxes(1, 2)
    rows, columns, side = *grid.shape[:2], down / across
    pieces = [*grid.reshape(-1, down, across, channels)]
    figure = _figure(8.0, 4.2)
    whole, cut, row = figure.subplot_mosaic("AB;CC", height_ratios=(3, 1)).values()
    whole.set_title(f"the image: {height} x {width} pixels", fontsize=11, color=INK)
    cut.set_title(f"{len(pieces)} patches of {down} x {across}", fontsize=11, color=INK)
    row.set_title("the encoder's tokens: class token, patches", fontsize=11, color=INK)
    _show(whole, image)
    for k, piece in enumerate(pieces):
        i, j = divmod(k, columns)
        _tile(cut, piece, j * (1 + GAP), i * (side + GAP))
    _fit(cut, columns * (1 + GAP), rows * (side + GAP))

    numbers = [*range(len(pieces))]
    if len(pieces) > MAX_TOKENS:
        numbers[MAX_TOKENS - 1 : -1] = [-1]
    _tile(row, np.array([[[0, 114, 178]]], np.uint8).repeat(down, 0).repeat(across, 1), 0.0, 0.0)
    for place, k in enumerate([-2, *numbers]):
        left = place * (1 + GAP)
        if k >= 0:
            _tile(row, pieces[k], left, 0.0)
        name = {-2: "class", -1: "…"}.get(k, str(k + 1))
        row.text(left + 0.5, side + 0.1, name, ha="center", va="top", fontsize=9, color=INK)
    _fit(row, (len(numbers) + 1) * (1 + GAP), side + 0.6)
    return figure


def predictions(
    images: Sequence[AnyImage], found: Sequence[Sequence[tuple[str, float]]]
) -> "matplotlib.figure.Figure":
    """Draws each image beside the probabilities of its likeliest classes.

    Args:
      images: What a `Predictor` takes.
      found: What it returned for them.

    Raises:
      UnreadableError: An image cannot be read.
    """
    most = max(len(classes) for classes in found)
    figure = _figure(7.0, max(1.6, 0.3 * most + 0.3) * len(images))
    panels = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 2))
    for (left, right), image, classes in zip(panels, images, found, strict=True):
        _show(left, _pixels(image))
        for i, (_, share) in enumerate(classes):
            right.barh(i, share, height=0.62, color=FAINT if i else BLUE)
            right.text(share + 0.015, i, f"{share:.1%}", va="center", fontsize=9, color=INK)
        names = [textwrap.shorten(label, 28, placeholder="…") for label, _ in classes]
        right.set_yticks(range(len(classes)), names, color=INK)
        right.tick_params(length=0)
        right.set_xticks([])
        right.set_xlim(0, 1.15)
        right.set_ylim(most - 0.5, -0.5)
        right.spines[["top", "right", "bottom"]].set_visible(False)
        right.spines["left"].set_color(FAINT)
    return figure


def _figure(width: float, height: float) -> Any:
    """Returns an empty figure, in inches."""
    return _figure_class()(figsize=(width, height), dpi=80, layout="constrained")


@functools.cache
def _figure_class() -> type:
    """Returns a figure that a notebook shows without pyplot and its global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'vit_jax[plot]' adds it"
        raise InputMissingError(f"pictures need Matplotlib ({error}); {hint}") from error

    class Picture(Figure):
        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=2 * self.dpi)  # fine on a fine screen
            width, height = (self.get_size_inches() * self.dpi).round().astype(int).tolist()
            return file.getvalue(), {"width": width, "height": height}

    return Picture


def _smooth(values: np.ndarray) -> np.ndarray:
    """Returns means over a fiftieth of the run."""
    reach = len(values) // 100
    sums, at = np.cumsum([0.0, *values]), np.arange(len(values))
    start, end = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _pixels(image: AnyImage) -> np.ndarray:
    """Returns what a `Predictor` sees of an image, in colour."""
    white = (255, 255, 255)
    if isinstance(image, np.ndarray):
        return image.reshape(*image.shape[:2], -1)
    if isinstance(image, Image.Image):
        return images_lib.to_pixels(image, 3, white)
    content = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
    return images_lib.decode(content, 3, white, MAX_PIXELS)


def _draw(axes: Any, pixels: np.ndarray, **options: Any) -> None:
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    axes.imshow(Image.fromarray(pixels).convert("RGBA"), interpolation="nearest", **options)


def _show(axes: Any, pixels: np.ndarray, color: str = FAINT, width: float = 0.8) -> None:
    """Fills the axes with an image, in a frame."""
    _draw(axes, pixels)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=width)


def _tile(axes: Any, pixels: np.ndarray, left: float, top: float) -> None:
    """Draws pixels at a place, one unit wide, in a frame."""
    right, bottom = left + 1, top + pixels.shape[0] / pixels.shape[1]
    _draw(axes, pixels, extent=(left, right, bottom, top))
    corners = [left, right, right, left], [top, top, bottom, bottom]
    axes.fill(*corners, fill=False, edgecolor=FAINT, linewidth=0.8)


def _fit(axes: Any, width: float, height: float) -> None:
    axes.set(xlim=(-0.05, width - GAP + 0.05), ylim=(height - GAP + 0.05, -0.05))
    axes.set_axis_off()
