"""Families of models: a record each, with its module, model names and parameter layers.

    FAMILIES["tower"] = Family(name="tower", module=Tower, ...)

adds a family. Its models can then be created, trained and converted like any other. Layer decay and
Muon need to know the layer and the shape of every parameter in the blocks; a parameter that the
record does not cover is an error there.
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

# Identifies the layer of a parameter. Keys sort in the order of the layers, from pixels to logits.
LayerKey = tuple[int, ...]
FIRST: LayerKey = (0,)  # everything before the first block
LAST: LayerKey = (2,)  # everything after the last block


def block(*indices: int) -> LayerKey:
    """Return the key of a block, given its index or the indices of its stage and block."""
    return (1, *indices)


# The axes of an array that form the rows and the columns of a matrix; a tuple of axes is merged.
Axes = tuple[int | tuple[int, ...], int | tuple[int, ...]]


class MatrixRule(NamedTuple):
    """The matrix that a parameter of a block represents, for optimizers such as Muon."""

    pattern: str  # regex that matches the full name of the parameter
    axes: Axes | None  # None: not a matrix
    ndim: int | None = None  # only for parameters with this number of dimensions


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      name: Key of the family in FAMILIES.
      module: Linen module of all its models.
      names: Model names to list; `find_preset` may accept more.
      find_preset: Maps the name of a model to the fields that the name sets, or to None if the name
        belongs to another family. The first family in FAMILIES that accepts a name gets it.
      layer_of: Maps the name of a parameter to the key of its layer, or to None if it is unknown.
      matrices: Rules for the parameters of blocks; the first that matches applies.
      libraries: Function that returns the libraries with weights for these models, by name. It is
        called only to convert weights, so that running a model does not import them.
    """

    name: str
    module: type[Transformer]
    names: tuple[str, ...]
    find_preset: Callable[[str], dict[str, Any] | None]
    layer_of: Callable[[str], LayerKey | None]
    matrices: tuple[MatrixRule, ...]
    libraries: Callable[[], Mapping[str, "Library"]] = dict

    def layer_key(self, parameter: str) -> LayerKey:
        """Return the key of the layer of a parameter.

        Raises:
          ConfigError: `layer_of` does not know the parameter.
        """
        key = self.layer_of(parameter)
        if key is None:
            problem = f"no layer for the parameter {parameter}; return a layer key for it"
            raise ConfigError(f"FAMILIES['{self.name}'].layer_of", problem)
        return key

    def matrix(self, parameter: str, ndim: int) -> Axes | None:
        """Return the axes of the matrix that a parameter of a block represents.

        Args:
          parameter: Name of the parameter.
          ndim: Number of its dimensions; with fewer than two it needs no rule.

        Returns:
          The axes, or None if the parameter is not a matrix or not in a block.

        Raises:
          ConfigError: `layer_of` does not know the parameter, or no rule matches it.
        """
        if self.layer_key(parameter) in (FIRST, LAST) or ndim < 2:
            return None
        for rule in self.matrices:
            if rule.ndim in (None, ndim) and re.fullmatch(rule.pattern, parameter):
                return rule.axes
        problem = f"no rule for the parameter {parameter} of {ndim} dimensions; add a MatrixRule"
        raise ConfigError(f"FAMILIES['{self.name}'].matrices", problem)


_OUTSIDE_OF_BLOCKS: dict[str, LayerKey] = {
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


def outside_of_blocks(parameter: str) -> LayerKey | None:
    """Return the layer key of a parameter before or after the blocks, or None for other names."""
    return _OUTSIDE_OF_BLOCKS.get(parameter.split("/")[0])


def _layer_of_vit(parameter: str) -> LayerKey | None:
    if match := re.match(r"blocks_(\d+)(_posemb)?/", parameter):
        return block(int(match[1]))
    return outside_of_blocks(parameter)


def _layer_of_swin(parameter: str) -> LayerKey | None:
    """Return the layer key of a parameter; patch merging counts with the block that follows it."""
    if match := re.match(r"merge_(\d+)/", parameter):
        return block(int(match[1]) + 1, 0)
    if match := re.match(r"stages_(\d+)_(\d+)(_posemb)?/", parameter):
        return block(int(match[1]), int(match[2]))
    return outside_of_blocks(parameter)


# Rules for the parameters of the blocks of all families.
MATRICES: tuple[MatrixRule, ...] = (
    MatrixRule(r".*/(qkv|q|kv)/kernel", (0, (2, 3))),  # width, projection, heads, channels
    MatrixRule(r".*/out/kernel", ((0, 1), 2)),  # heads, channels, width
    MatrixRule(r".*/kernel", (0, 1), ndim=2),
    MatrixRule(r".*/(reduce|conv)/kernel", None),  # convolutions
    MatrixRule(r".*/(bias|bias_qv|scale|logit_scale)", None),
    MatrixRule(r".*/(table|grid|prefix|frequencies)", None),  # position embeddings
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
    """Return the family of a model name.

    Raises:
      ConfigError: No family accepts the name.
    """
    return _find(name)[0]


def stated_fields(name: str) -> dict[str, Any]:
    """Return the fields that a model name sets, by path: sizes, patch and those of its series.

    Raises:
      ConfigError: No family accepts the name.
    """
    return _find(name)[1]


def list_names() -> list[str]:
    """Return the listed model names of all families."""
    return [name for record in FAMILIES.values() for name in record.names]


def _find(name: str) -> tuple[Family, dict[str, Any]]:
    for record in FAMILIES.values():
        fields = record.find_preset(name)
        if fields is not None:
            return record, fields
    problem = f"unknown '{name}'; {suggest_or_import(name, list_names())}"
    raise ConfigError("config.model.name", problem)
