"""What all figures share: colours, an empty figure, images in axes."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.errors import InputMissingError

# From the palette of Okabe and Ito.
BLUE = "#0072B2"
ORANGE = "#D55E00"
# Greys.
INK = "#333333"
FAINT = "#B8B8B8"


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure.

    Args:
      width: In inches.
      height: In inches.

    Raises:
      InputMissingError: Matplotlib is not installed.
    """
    return figure_class()(figsize=(width, height), dpi=80, layout="constrained")


@functools.cache
def figure_class() -> type:
    """Return a Matplotlib figure that a notebook shows without pyplot and its global state.

    Raises:
      InputMissingError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'vit_jax[plot]' adds it"
        raise InputMissingError(f"pictures need Matplotlib ({error}); {hint}") from error

    class Picture(Figure):
        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=2 * self.dpi)  # sharp on high-resolution screens
            width, height = (self.get_size_inches() * self.dpi).round().astype(int).tolist()
            return file.getvalue(), {"width": width, "height": height}

    return Picture


def draw_image(axes: Any, pixels: np.ndarray, **options: Any) -> None:
    """Draw pixels (h, w, c) with 1 to 4 channels; `options` are those of `imshow`."""
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    axes.imshow(Image.fromarray(pixels).convert("RGBA"), interpolation="nearest", **options)


def fill_with_image(
    axes: Any, pixels: np.ndarray, color: str = FAINT, linewidth: float = 0.8
) -> None:
    """Fill the axes with an image, in a frame of a colour and a width in points."""
    draw_image(axes, pixels)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=linewidth)
