"""The description of a weight file: what `describe` of every library returns."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.files.base import Shape

# Fields that affect the outputs but no parameter shape. A library that cannot store such a field
# computes with its own value.
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

# Mean and standard deviation of ImageNet's pixels, and the ones that map pixels to [-1, 1].
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MINUS_ONE_TO_ONE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class ImportSpec:
    """What a weight file and its documents state. Other fields keep the values of the named model.

    Attributes:
      fields: Fields of the model to set.
      sizes: Fields of the model to compare: the named model must have these values.
      positions: Number of rows of the position embedding; 0 if there is none.
      num_tokens: Number of class and distillation tokens.
      token_rows: Possible numbers of rows for prefix tokens in the position embedding, the usual
        one first. Empty stands for `num_tokens` or 0.
      data: Fields of the data section: the preprocessing.
      class_names: The class names; empty if unknown.
      trained_size: Image size (height, width) of the position embedding, if it is not that of
        `data`.
      objective: Fields of the objective section, such as the loss.
      notes: Notes for the user, such as where the preprocessing is only approximate.
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
    """Return the number of outputs of a layer from the shape of its bias; 0 without the layer."""
    return math.prod(shapes.get(bias, (0,)))


def usual_preprocessing(
    table: Mapping[str, Mapping[str, Any]], series: str, document: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the preprocessing of the published models of a series, for weights without a document.

    Args:
      table: Fields of the data section, by series.
      series: The first part of the model's name, such as `deit3`.
      document: The name of the missing document, for the note and the error.

    Returns:
      The fields, and a note for the user.

    Raises:
      DataError: The table does not have the series.
    """
    if series not in table:
        problem = f"expected this file beside the weights: {series} has no usual preprocessing"
        raise DataError(f"{document}: {problem}")
    note = f"no {document} beside the weights: using the usual preprocessing of {series}"
    return dict(table[series]), (note,)
