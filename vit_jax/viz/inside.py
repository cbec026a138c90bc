"""What a model has learned before its first block, and how far its heads look."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from vit_jax.viz.colour_maps import to_colours
from vit_jax.viz.drawing import BLUE, INK, new_figure
from vit_jax.viz.sheets import Picture, Row, sheet

if TYPE_CHECKING:
    import matplotlib.figure

_MAX_FILTERS = 126  # pictures of single filters in a sheet
_MAX_QUERIES = 16  # rows and columns of positions whose similarities are shown


def filter_sheet(
    filters: Float[np.ndarray, "d h w c"],
    components: Float[np.ndarray, "k h w c"],
    shares: Sequence[float],
    width: int = 64,
) -> Image.Image:
    """Return a sheet of filters, the first ones of many, and of their principal components.

    Each filter of 1 or 3 channels is shown as an image, with 0 in middle grey, scaled to its
    largest magnitude. Of filters of other channels, the mean over the channels is shown.

    Args:
      filters: The filters.
      components: Their principal components.
      shares: The share of the variance of each component.
      width: Width of a picture in pixels.
    """
    title = f"principal components of {len(filters)} filters, with their share of the variance"
    few = filters[:_MAX_FILTERS]
    rows = [
        Row(
            title,
            [
                Picture(_filter(component, width), f"{share:.1%}")
                for component, share in zip(components, shares, strict=True)
            ],
        ),
        Row(f"filters 0 to {len(few) - 1}", [Picture(_filter(one, width)) for one in few]),
    ]
    return sheet(rows, columns=14)


def _filter(weights: Float[np.ndarray, "h w c"], width: int) -> Image.Image:
    if weights.shape[-1] not in (1, 3):
        weights = weights.mean(axis=-1, keepdims=True)
    largest = max(float(np.abs(weights).max()), 1e-12)
    levels = (127.5 + 127.5 * weights / largest).round().astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).convert("RGB")
    height = round(width * image.height / image.width)
    return image.resize((width, height), Image.Resampling.NEAREST)


def similarity_sheet(similarity: Float[np.ndarray, "h w h w"], side: int = 800) -> Image.Image:
    """Return a picture of the similarity of each position (its place) with all others (a tile).

    The colours are viridis, from -1 to 1. Of more than 16 rows or columns of positions, 16 evenly
    spaced ones are shown.

    Args:
      similarity: Cosine similarities of the position embeddings.
      side: About the width of the picture in pixels.
    """
    height, width = similarity.shape[:2]
    rows, columns = (
        np.unique(np.linspace(0, size - 1, min(size, _MAX_QUERIES)).round().astype(int))
        for size in (height, width)
    )
    zoom = max(1, math.ceil(side / len(columns) / width))
    colours = to_colours((similarity + 1) / 2, "viridis").repeat(zoom, 2).repeat(zoom, 3)
    gap = 4
    step_down, step_right = height * zoom + gap, width * zoom + gap
    size = (len(columns) * step_right - gap, len(rows) * step_down - gap)
    canvas = Image.new("RGB", size, "white")
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            tile = Image.fromarray(colours[row, column])
            canvas.paste(tile, (j * step_right, i * step_down))
    bar = to_colours(np.linspace(0, 1, 256)[None].repeat(12, 0), "viridis")
    title = (
        f"cosine similarity of the position embedding of each of {len(rows)} x {len(columns)} "
        f"positions with all {height} x {width}"
    )
    legend = Picture(Image.fromarray(bar), "-1 (left) to 1 (right)")
    return sheet([Row(title, [Picture(canvas)]), Row("", [legend])])


def bias_sheet(
    biases: Mapping[str, Float[np.ndarray, "heads h w"]], width: int = 128
) -> Image.Image:
    """Return a sheet of position biases: a row for each block, a picture for each head.

    The query is in the centre of a picture. The colours are viridis, from the least bias of the
    head to its largest.

    Args:
      biases: Biases by the offset of the key, by block.
      width: Width of a picture in pixels.
    """
    rows = []
    for name, heads in biases.items():
        pictures = []
        for i, bias in enumerate(heads):
            low, high = float(bias.min()), float(bias.max())
            colours = to_colours((bias - low) / max(high - low, 1e-12), "viridis")
            size = (width, round(width * bias.shape[0] / bias.shape[1]))
            tile = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
            pictures.append(Picture(tile, f"head {i}, {low:.1f} to {high:.1f}"))
        rows.append(Row(f"{name}: bias of the attention scores, the query in the centre", pictures))
    return sheet(rows)


def attention_distances(
    distances: Mapping[str, Float[np.ndarray, " heads"]],
) -> "matplotlib.figure.Figure":
    """Draw the attention distance of each head over the depth of its layer.

    Args:
      distances: Mean attention distances in pixels, by layer, from the first to the last.
    """
    figure = new_figure(max(5.0, 0.4 * len(distances) + 2), 3.6)
    axes = figure.subplots()
    for i, heads in enumerate(distances.values()):
        axes.plot([i] * len(heads), heads, "o", color=BLUE, alpha=0.55, markersize=6)
    means = [float(np.mean(heads)) for heads in distances.values()]
    axes.plot(range(len(means)), means, "-", color=INK, linewidth=1.2, label="mean of the heads")
    axes.set_title("mean attention distance of each head", loc="left", fontsize=11, color=INK)
    axes.set_xticks(range(len(distances)), list(distances), rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("pixels", color=INK)
    largest = max(float(np.max(heads)) for heads in distances.values())
    axes.set_ylim(0, 1.08 * largest or 1.0)  # a single patch has no other one at a distance
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK)
    return figure
