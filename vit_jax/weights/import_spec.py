"""What a weight file says about its model: the interface of `describe` in every library."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.files.base import Shape

# Fields of the model that its parameters do not show. A library that cannot store their values
# computes with its own.
NUMERICS = (
    "mlp.activation",
    "pool.activation",
    "norm_eps",
    "posemb.interpolation",
    "posemb.antialias",
    "stem.weight_standardization",
    "stem.norm_eps",
    "attention.pad_order",
    "attention.limit",
    "merge_eps",
    "representation_activation",
)

# Mean and standard deviation of ImageNet's pixels, and those that map pixels to -1..1.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class ImportSpec:
    """What a weight file states; all else is as the named model has it.

    Attributes:
      fields: Fields of the model, to be set.
      sizes: Fields of the model, to be compared: the named model must have the same.
      positions: Rows of the position table; 0 where there is none.
      num_tokens: Class and distillation token.
      token_rows: How many rows of the position table may be those of tokens before the patches, the
        usual number first; empty: as many as tokens, or none.
      data: Fields of the data section: the preprocessing.
      class_names: The classes; empty where they are unknown.
      trained_size: The image size of the position table, where it is not that of `data`.
      objective: Fields of the objective: what the logits mean.
      notes: What the user should know, such as where the preprocessing is only approximate.
    """

    fields: Mapping[str, Any]
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positions: int = 0
    num_tokens: int = 0
    token_rows: tuple[int, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained_size: tuple[int, int] | None = None
    objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def num_outputs(shapes: Mapping[str, Shape], bias: str) -> int:
    """Return the number of outputs of a layer from its bias, or 0 where there is no such layer."""
    return math.prod(shapes.get(bias, (0,)))


def find_usual(
    table: Mapping[str, Mapping[str, Any]], series: str, document: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the preprocessing that published models are used with, and a note that says so.

    Args:
      table: Fields of the data section, by series.
      series: What the name of our model begins with, such as `deit3`.
      document: What would state the preprocessing, and is not there.

    Raises:
      DataError: Nothing is usual for these models.
    """
    if series not in table:
        problem = f"expected it beside the weights, as no preprocessing is usual for {series}"
        raise DataError(f"{document}: {problem}")
    note = f"no {document} beside the weights: the usual preprocessing of {series}"
    return dict(table[series]), (note,)
