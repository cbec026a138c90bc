"""Colours and helpers that all figures share."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.errors import InputMissingError

# From the colour-blind-safe palette of Okabe and Ito (2008).
BLUE = "#0072B2"
ORANGE = "#D55E00"
# Greys.
INK = "#333333"
FAINT = "#B8B8B8"


def new_figure(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure.

    Args:
      width: Width in inches.
      height: Height in inches.

    Raises:
      InputMissingError: Matplotlib is not installed.
    """
    return figure_class()(figsize=(width, height), dpi=80, layout="constrained")


@functools.cache
def figure_class() -> type:
    """Return a Matplotlib figure class that a notebook can display without pyplot.

    Raises:
      InputMissingError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "run pip install 'vit_jax[plot]'"
        raise InputMissingError(f"cannot import Matplotlib ({error}); {hint}") from error

    class NotebookFigure(Figure):
        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=2 * self.dpi)  # sharp on high-resolution screens
            width, height = (self.get_size_inches() * self.dpi).round().astype(int).tolist()
            return file.getvalue(), {"width": width, "height": height}

    return NotebookFigure


def draw_image(axes: Any, pixels: np.ndarray, **options: Any) -> None:
    """Draw an image.

    Args:
      axes: The Matplotlib axes.
      pixels: uint8 (h, w, c): grey, grey and alpha, RGB, or RGBA.
      options: Further arguments of `imshow`.
    """
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    axes.imshow(Image.fromarray(pixels).convert("RGBA"), interpolation="nearest", **options)


def fill_with_image(
    axes: Any, pixels: np.ndarray, color: str = FAINT, linewidth: float = 0.8
) -> None:
    """Fill the axes with an image and draw a frame around it.

    Args:
      axes: The Matplotlib axes.
      pixels: uint8 (h, w, c).
      color: Colour of the frame.
      linewidth: Width of the frame in points.
    """
    draw_image(axes, pixels)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=linewidth)
