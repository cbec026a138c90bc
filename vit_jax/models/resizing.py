"""Parameters that belong to a size of grid, for images of another size."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.models.layers.posemb import resample


def resize_table(name: str, table: Any, shape: tuple[int, ...], model: Mapping[str, Any]) -> Any:
    """Returns a parameter that belongs to a size of grid as a model would use it for another.

    Args:
      name: Of the parameter, one that `weights.adapt.TABLES` matches.
      table: The parameter, (h, w, d).
      shape: The other.
      model: Fields of the model.
    """
    height, width = shape[:2]
    if "/mix_" in name:  # sums over the grid, which keep their size
        return resample(table, height, width) * (math.prod(table.shape[:2]) / (height * width))
    fields = (model["posemb_interpolation"], model["posemb_antialias"])
    return resample(table, height, width, *fields)
