"""Families of models: all that is known of one stands in its record.

    FAMILIES["tower"] = Family(name="tower", module=Tower, ...)

adds a family, here of a module of somebody else's: its models are created, trained and converted as
those of any other. Its parameters have names, and the record says what each of them is. A name that
it says nothing of is an error where it matters, in layer decay and in Muon.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vit_jax.errors import ConfigError, suggest_or_import
from vit_jax.models.presets import swin as swin_presets
from vit_jax.models.presets import vit as vit_presets
from vit_jax.models.swin import Swin
from vit_jax.models.transformer import Transformer
from vit_jax.models.vit import ViT

if TYPE_CHECKING:
    from vit_jax.weights.library import Library

# Where a parameter is on the way from pixels to logits. Positions sort in that order, and those of
# one layer are equal.
Position = tuple[int, ...]
FIRST: Position = (0,)  # what comes before the first block
LAST: Position = (2,)  # what comes after the last block


def block(*numbers: int) -> Position:
    """Return the position of a block from its number, or its numbers of stage and block."""
    return (1, *numbers)


# The axes of an array that are the two of a matrix; several that count as one are a tuple.
Axes = tuple[int | tuple[int, ...], int | tuple[int, ...]]


class MatrixRule(NamedTuple):
    """Which axes of a parameter in a block are those of a matrix."""

    pattern: str  # of the whole name
    axes: Axes | None  # None: it is no matrix
    ndim: int | None = None  # for arrays of so many dimensions only


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      name: Its name, as in FAMILIES.
      module: The module of all its models.
      names: The names that are listed.
      find_preset: From the name of a model to the fields that the name states; None for the names
        of other families. Between two families that know a name, the first one in FAMILIES counts.
      layer_of: From the name of a parameter to its position; None where it knows no such parameter.
      matrices: Rules for the parameters in blocks, of which the first that matches counts.
      libraries: Returns the libraries whose weights its models take, by name. It is called, and may
        import them, where weights are converted: whoever only runs a model needs none.
    """

    name: str
    module: type[Transformer]
    names: tuple[str, ...]
    find_preset: Callable[[str], dict[str, Any] | None]
    layer_of: Callable[[str], Position | None]
    matrices: tuple[MatrixRule, ...]
    libraries: Callable[[], Mapping[str, "Library"]] = dict

    def position(self, parameter: str) -> Position:
        """Return the position of a parameter.

        Raises:
          ConfigError: The family knows no such parameter.
        """
        position = self.layer_of(parameter)
        if position is None:
            problem = f"no layer for the parameter {parameter}; return its position there"
            raise ConfigError(f"FAMILIES['{self.name}'].layer_of", problem)
        return position

    def matrix(self, parameter: str, ndim: int) -> Axes | None:
        """Return the axes of the matrix that a parameter is; None where it is none, or in no block.

        What has less than two dimensions is no matrix and needs no rule.

        Raises:
          ConfigError: The family knows no such parameter.
        """
        if self.position(parameter) in (FIRST, LAST) or ndim < 2:
            return None
        for rule in self.matrices:
            if rule.ndim in (None, ndim) and re.fullmatch(rule.pattern, parameter):
                return rule.axes
        problem = f"no rule for the parameter {parameter} of {ndim} dimensions; add a MatrixRule"
        raise ConfigError(f"FAMILIES['{self.name}'].matrices", problem)


_OUTSIDE_OF_BLOCKS: dict[str, Position] = {
    "stem": FIRST,
    "stem_norm": FIRST,
    "posemb": FIRST,
    "cls_token": FIRST,
    "dist_token": FIRST,
    "registers": FIRST,
    "norm": LAST,
    "pool": LAST,
    "fc_norm": LAST,
    "representation": LAST,
    "head": LAST,
    "head_dist": LAST,
}


def outside_of_blocks(parameter: str) -> Position | None:
    """Return the position of a parameter that families share, before or after the blocks."""
    return _OUTSIDE_OF_BLOCKS.get(parameter.split("/")[0])


def _layer_of_vit(parameter: str) -> Position | None:
    if match := re.match(r"blocks_(\d+)(_posemb)?/", parameter):
        return block(int(match[1]))
    return outside_of_blocks(parameter)


def _layer_of_swin(parameter: str) -> Position | None:
    """Return the position of a parameter; what merges patches belongs to the block after it."""
    if match := re.match(r"merge_(\d+)/", parameter):
        return block(int(match[1]) + 1, 0)
    if match := re.match(r"stages_(\d+)_(\d+)(_posemb)?/", parameter):
        return block(int(match[1]), int(match[2]))
    return outside_of_blocks(parameter)


# Of what blocks are made of.
MATRICES: tuple[MatrixRule, ...] = (
    MatrixRule(r".*/(qkv|q|kv)/kernel", (0, (2, 3))),  # width, which of them, heads, channels
    MatrixRule(r".*/out/kernel", ((0, 1), 2)),  # heads, channels, width
    MatrixRule(r".*/kernel", (0, 1), ndim=2),
    MatrixRule(r".*/(reduce|conv)/kernel", None),  # convolutions
    MatrixRule(r".*/(bias|bias_qv|scale|logit_scale)", None),
    MatrixRule(r".*/(table|grid|prefix|frequencies)", None),  # positions
)


def _libraries_of_vit() -> dict[str, "Library"]:
    from vit_jax.weights import big_vision, google, huggingface, timm

    return {
        "google": google.VIT,
        "big_vision": big_vision.VIT,
        "timm": timm.VIT,
        "huggingface": huggingface.VIT,
    }


def _libraries_of_swin() -> dict[str, "Library"]:
    from vit_jax.weights import huggingface, timm

    return {"timm": timm.SWIN, "huggingface": huggingface.SWIN}


FAMILIES: dict[str, Family] = {
    "vit": Family(
        name="vit",
        module=ViT,
        names=vit_presets.NAMES,
        find_preset=vit_presets.find,
        layer_of=_layer_of_vit,
        matrices=MATRICES,
        libraries=_libraries_of_vit,
    ),
    "swin": Family(
        name="swin",
        module=Swin,
        names=swin_presets.NAMES,
        find_preset=swin_presets.find,
        layer_of=_layer_of_swin,
        matrices=MATRICES,
        libraries=_libraries_of_swin,
    ),
}


def family(name: str) -> Family:
    """Return the family of a model.

    Raises:
      ConfigError: No such model.
    """
    return _find(name)[0]


def stated_fields(name: str) -> dict[str, Any]:
    """Return what a name states, by path: sizes, patch and the fields that its series changes.

    Raises:
      ConfigError: No such model.
    """
    return _find(name)[1]


def list_names() -> list[str]:
    """Return the names of all families that are listed."""
    return [name for record in FAMILIES.values() for name in record.names]


def _find(name: str) -> tuple[Family, dict[str, Any]]:
    for record in FAMILIES.values():
        fields = record.find_preset(name)
        if fields is not None:
            return record, fields
    problem = f"unknown '{name}'; {suggest_or_import(name, list_names())}"
    raise ConfigError("config.model.name", problem)
