"""Images side by side, and the patches of one image."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from vit_jax.viz.drawing import BLUE, FAINT, INK, ORANGE, draw_image, fill_with_image, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

MAX_TOKENS = 16  # the figure of `patches` shows up to this many tokens
GAP = 0.12  # between patches, as a fraction of their width
CLASS_TOKEN = tuple(bytes.fromhex(BLUE[1:]))  # red, green, blue


def image_grid(
    images: UInt8[np.ndarray, "n h w c"],
    titles: Sequence[str] = (),
    wrong: Sequence[bool] = (),
    columns: int = 8,
) -> "matplotlib.figure.Figure":
    """Draw images in a grid.

    Args:
      images: 1 to 4 channels: grey, grey and alpha, RGB, or RGBA.
      titles: One title per image; empty for none.
      wrong: True for each misclassified image: it gets a cross and a coloured frame.
      columns: Maximum number of images per row.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = new_figure(1.3 * columns, (1.55 if titles else 1.3) * rows)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= len(images):
            axes.set_axis_off()
            continue
        is_wrong = i < len(wrong) and wrong[i]
        fill_with_image(axes, images[i], ORANGE if is_wrong else FAINT, 2.5 if is_wrong else 0.8)
        if titles:
            text = textwrap.fill(f"✗ {titles[i]}" if is_wrong else titles[i], 17)
            axes.set_title(text, fontsize=9, color=ORANGE if is_wrong else INK, pad=4)
    return figure


def patches(image: UInt8[np.ndarray, "h w c"], patch: Sequence[int]) -> "matplotlib.figure.Figure":
    """Draw an image, its patches, and the sequence of tokens that a Vision Transformer builds.

    Args:
      image: An image of the size that the model takes, with 1 to 4 channels.
      patch: Height and width of a patch in pixels.
    """
    height, width, channels = image.shape
    patch_height, patch_width = patch
    shape = (height // patch_height, patch_height, width // patch_width, patch_width, channels)
    grid = image.reshape(shape).swapaxes(1, 2)
    figure = new_figure(8.0, 4.2)
    whole, cut, row = figure.subplot_mosaic("AB;CC", height_ratios=(3, 1)).values()
    whole.set_title(f"the image: {height} x {width} pixels", fontsize=11, color=INK)
    num_patches = grid.shape[0] * grid.shape[1]
    title = f"{num_patches} patches of {patch_height} x {patch_width}"
    cut.set_title(title, fontsize=11, color=INK)
    row.set_title("the encoder's tokens: class token, patches", fontsize=11, color=INK)
    fill_with_image(whole, image)
    _draw_patches(cut, grid)
    _draw_tokens(row, [*grid.reshape(-1, patch_height, patch_width, channels)])
    return figure


def _draw_patches(axes: Any, grid: UInt8[np.ndarray, "rows columns h w c"]) -> None:
    """Draw the patches at their positions in the image, with gaps between them."""
    rows, columns, height, width, _ = grid.shape
    side = height / width
    for i in range(rows):
        for j in range(columns):
            _draw_tile(axes, grid[i, j], j * (1 + GAP), i * (side + GAP))
    _set_limits(axes, columns * (1 + GAP), rows * (side + GAP))


def _draw_tokens(axes: Any, tiles: list[np.ndarray]) -> None:
    """Draw the class token and the patches in a row; leave out the middle ones if they are many."""
    height, width, _ = tiles[0].shape
    side = height / width
    class_token = np.full((height, width, 3), CLASS_TOKEN, np.uint8)
    tokens: list[tuple[str, np.ndarray | None]] = [("class", class_token)]
    tokens += [(str(number), tile) for number, tile in enumerate(tiles, 1)]
    if len(tiles) > MAX_TOKENS:
        tokens[MAX_TOKENS:-1] = [("…", None)]
    for i, (label, tile) in enumerate(tokens):
        left = i * (1 + GAP)
        if tile is not None:
            _draw_tile(axes, tile, left, 0.0)
        axes.text(left + 0.5, side + 0.1, label, ha="center", va="top", fontsize=9, color=INK)
    _set_limits(axes, len(tokens) * (1 + GAP), side + 0.6)


def _draw_tile(axes: Any, pixels: np.ndarray, left: float, top: float) -> None:
    """Draw an image in a frame that is one unit wide."""
    right = left + 1
    bottom = top + pixels.shape[0] / pixels.shape[1]
    draw_image(axes, pixels, extent=(left, right, bottom, top))
    corners = [left, right, right, left], [top, top, bottom, bottom]
    axes.fill(*corners, fill=False, edgecolor=FAINT, linewidth=0.8)


def _set_limits(axes: Any, width: float, height: float) -> None:
    """Set the axis limits to the extent of the tiles, without the gap after the last one."""
    axes.set(xlim=(-0.05, width - GAP + 0.05), ylim=(height - GAP + 0.05, -0.05))
    axes.set_axis_off()
