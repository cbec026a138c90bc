"""What a kind of weight file says about its model besides the arrays."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any

from vit_jax.errors import ConfigError, DataError
from vit_jax.weights.rules import Rule, Shape

Json = Mapping[str, Any]

# Fields of the model that its parameters do not show. Where a kind of file has no word for them,
# its code computes with these.
NUMERICS = (
    *("activation", "norm_eps", "posemb_interpolation", "posemb_antialias"),
    *("weight_standardization", "group_norm_eps", "pad_order"),
)

# The mean and the standard deviation of ImageNet's pixels, and those that map them to -1..1.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file states; the rest is what the named model says.

    `fields` of the model are taken from here; `sizes` only have to agree with the model's. `data`
    are fields of the data section: the preprocessing, and where it is only close, `notes` say so.
    """

    fields: Mapping[str, Any]
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positions: int = 0  # rows of the position table; 0 where there is none
    num_tokens: int = 0  # class and distillation token
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def linear(source: str, target: str, pattern: str = "o i -> i o") -> Iterator[Rule]:
    """Yields the rules of a layer of torch: weight and bias."""
    yield Rule(f"{source}.weight", f"{target}/kernel", pattern)
    yield Rule(f"{source}.bias", f"{target}/bias")


def norm(source: str, target: str) -> Iterator[Rule]:
    """Yields the rules of a normalization layer of torch."""
    yield Rule(f"{source}.weight", f"{target}/scale")
    yield Rule(f"{source}.bias", f"{target}/bias")


def dense(source: str, target: str) -> Iterator[Rule]:
    """Yields the rules of a linen layer with the same arrangement: kernel and bias."""
    yield Rule(f"{source}/kernel", f"{target}/kernel")
    yield Rule(f"{source}/bias", f"{target}/bias")


def scale(source: str, target: str, pattern: str = "") -> Iterator[Rule]:
    """Yields the rules of a normalization layer of linen."""
    yield Rule(f"{source}/scale", f"{target}/scale", pattern)
    yield Rule(f"{source}/bias", f"{target}/bias", pattern)


def num_classes(shapes: Mapping[str, Shape], bias: str) -> int:
    """Returns the number of classes from the head's bias, or 0 where there is no head."""
    return math.prod(shapes.get(bias, (0,)))


def read_key(document: Json, key: str, kind: type | UnionType, where: str) -> Any:
    """Returns a value of a JSON document.

    Raises:
      DataError: It is not there or of another type.
    """
    value = document.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(
            f"{where}: {key}: expected {getattr(kind, '__name__', kind)}, got {value!r:.60}"
        )
    return value


def find_size(
    facts: Facts, stride: tuple[int, int], *sizes: tuple[int, int] | None
) -> tuple[tuple[int, int], bool]:
    """Returns the image size that a position table is for, and whether it has the tokens' rows.

    Args:
      facts: Of the file.
      stride: Height and width in pixels of a patch's cell.
      *sizes: What the size may be; else the grid is square.

    Raises:
      ConfigError: The positions are neither those of a given size nor a square.
    """
    given = [size for size in sizes if size]
    if not facts.positions:  # computed, not learned: any size
        return (given or [(224, 224)])[0], False
    for height, width in given:
        tokens = facts.positions - (height // stride[0]) * (width // stride[1])
        if tokens in (0, facts.num_tokens):
            return (height, width), tokens > 0
    for tokens in (facts.num_tokens, 0):
        side = math.isqrt(max(0, facts.positions - tokens))
        if side and side**2 == facts.positions - tokens:
            return (side * stride[0], side * stride[1]), tokens > 0
    problem = f"{facts.positions} positions are not a square; say what size they are for"
    raise ConfigError("--data.image_size", problem)
