"""Sheets of the maps of an image, and pictures of those of a model."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vit_jax.interpretation.overview import ImageMaps
from vit_jax.viz.inside import attention_distances, bias_sheet, filter_sheet, similarity_sheet
from vit_jax.viz.maps import map_on_image, patch_colours, plain_image
from vit_jax.viz.sheets import Picture, Row, sheet

if TYPE_CHECKING:
    import matplotlib.figure


def map_sheet(
    title: str,
    pixels: UInt8[np.ndarray, "H W c"],
    maps: ImageMaps,
    names: Collection[str] = ("heads", "mean"),
    *,
    caption: str = "",
    label: str = "",
    width: int = 192,
) -> Image.Image:
    """Return the sheet of an image: the image with its maps, and a row for each layer.

    Args:
      title: The line above the image.
      pixels: The image, as the model gets it.
      maps: Its maps.
      names: Whether layers show `heads`, their `mean`, or both.
      caption: The line below the image.
      label: The class of the relevance.
      width: Width of a picture in pixels.
    """
    pictures = [Picture(plain_image(pixels, width), caption)]
    if maps.rollout is not None:
        pictures.append(_picture(pixels, maps.rollout, f"rollout, {_max(maps.rollout)}", width))
    if maps.relevance is not None:
        # From its least value: the mean of patches starts with the same share of each of them.
        above = maps.relevance - maps.relevance.min()
        pictures.append(_picture(pixels, above, f"relevance, {label}", width))
    if maps.components is not None:
        size = pictures[0].image.size
        pictures.append(Picture(patch_colours(maps.components, size), "components"))
    return sheet([Row(title, pictures), *_attention_rows(pixels, maps, names, width)])


def model_picture(
    name: str, arrays: Mapping[str, np.ndarray]
) -> "Image.Image | matplotlib.figure.Figure":
    """Return the picture of a map of a model.

    Args:
      name: `filters`, `positions` or `distances`.
      arrays: The arrays of the map; see `overview.model_maps`. Those of `distances` are one for
        each layer.

    Raises:
      InputMissingError: Matplotlib is needed for `distances`, and is not installed.
    """
    if name == "filters":
        shares = arrays["shares"].tolist()
        return filter_sheet(arrays["filters"], arrays["components"], shares)
    if name == "distances":
        return attention_distances(arrays)
    if "similarity" in arrays:
        return similarity_sheet(arrays["similarity"])
    return bias_sheet(arrays)


def _attention_rows(
    pixels: np.ndarray, maps: ImageMaps, names: Collection[str], width: int
) -> list[Row]:
    """Return a row for each layer: the mean of its heads, and each head."""
    means = {layer: heads.mean(axis=0) for layer, heads in maps.heads.items()}
    if "heads" not in names:
        pictures = _pictures(pixels, means, width)
        return [Row("attention, mean of the heads", pictures)] if pictures else []
    rows = []
    for layer, heads in maps.heads.items():
        shown = {"mean": means[layer]} if "mean" in names else {}
        shown |= {f"head {i}": head for i, head in enumerate(heads)}
        title = f"{layer}: attention of the {maps.readouts[layer]}"
        rows.append(Row(title, _pictures(pixels, shown, width)))
    return rows


def _pictures(pixels: np.ndarray, named: Mapping[str, np.ndarray], width: int) -> list[Picture]:
    return [
        _picture(pixels, values, f"{name}, {_max(values)}", width) for name, values in named.items()
    ]


def _picture(pixels: np.ndarray, values: np.ndarray, caption: str, width: int) -> Picture:
    return Picture(map_on_image(pixels, values.astype(np.float32), width), caption)


def _max(values: np.ndarray) -> str:
    """Return the largest of some weights as text, with two digits."""
    return f"max {float(f'{100 * values.max():.2g}'):g}%"  # 100, not 1e+02
