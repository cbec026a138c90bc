"""Images beside their class probabilities."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vit_jax import config
from vit_jax.data import images as images_lib
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.viz.drawing import BLUE, FAINT, INK, fill_with_image, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


def predictions(
    images: Any, predicted: Sequence[Sequence[tuple[str, float]]]
) -> "matplotlib.figure.Figure":
    """Draw each image beside the probabilities of its most likely classes.

    Args:
      images: The images, in any form that `predict.Predictor` accepts.
      predicted: The predictions for them: (class name, probability), the most likely class first.

    Raises:
      UnreadableError: An image cannot be read.
    """
    max_classes = max(len(classes) for classes in predicted)
    source = InMemory(images, ())
    figure = new_figure(7.0, max(1.6, 0.3 * max_classes + 0.3) * len(source))
    panels = figure.subplots(len(source), 2, squeeze=False, width_ratios=(1, 2))
    records = (source[i] for i in range(len(source)))
    for (left, right), record, classes in zip(panels, records, predicted, strict=True):
        fill_with_image(left, _pixels(record["image"]))
        _draw_bars(right, classes, max_classes)
    return figure


def _draw_bars(axes: Any, classes: Sequence[tuple[str, float]], num_rows: int) -> None:
    """Draw one bar per class, in axes that have space for `num_rows` bars."""
    for i, (_, probability) in enumerate(classes):
        axes.barh(i, probability, height=0.62, color=FAINT if i else BLUE)
        text = f"{probability:.1%}"
        axes.text(probability + 0.015, i, text, va="center", fontsize=9, color=INK)
    names = [textwrap.shorten(label, 28, placeholder="…") for label, _ in classes]
    axes.set_yticks(range(len(classes)), names, color=INK)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_xlim(0, 1.15)
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)


def _pixels(image: bytes | Image.Image | np.ndarray) -> np.ndarray:
    """Return uint8 (h, w, c): RGB for a file or a Pillow image, an array unchanged.

    Raises:
      UnreadableError: The image cannot be read.
    """
    data = config.Data()
    if isinstance(image, Image.Image):
        return images_lib.to_pixels(image, 3, data.background)
    if isinstance(image, bytes):
        return images_lib.decode(image, 3, data.background, data.max_pixels)
    return image
