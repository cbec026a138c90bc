"""Resizing of parameters that depend on the size of the grid of patches."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.models.layers.posemb import resample


def resize_table(name: str, table: Any, shape: tuple[int, ...], model: Mapping[str, Any]) -> Any:
    """Return a parameter as the model uses it for images with another grid.

    Args:
      name: Name of the parameter, which `weights.adapt.TABLES` matches.
      table: The parameter, (h, w, d).
      shape: The new shape.
      model: The model section of a config.
    """
    height, width = shape[:2]
    if "/mix_" in name:  # weights of sums over the grid, which keep their total
        return resample(table, height, width) * (math.prod(table.shape[:2]) / (height * width))
    posemb = model["posemb"]
    return resample(table, height, width, posemb["interpolation"], posemb["antialias"])
