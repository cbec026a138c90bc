"""Layers of settings from different origins; later layers win, and every value keeps its origin."""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import ml_collections

from vit_jax import models
from vit_jax.config.schema import DURATIONS, Config, as_dict, flatten
from vit_jax.errors import ConfigError
from vit_jax.settings.choices import Choice, Declared, declare, own_choices
from vit_jax.settings.fields import field
from vit_jax.settings.recorded import Setting, Settings

Layer = dict[str, Setting]  # by path, such as `optim.learning_rate`
Tree: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any]

MODEL_NAME = Declared(
    str,
    field("", "name of the model, which sets its preset; `python -m vit_jax.models` lists them"),
)

DEFAULT = "default"
FLAG = "flag"

NAME = "model.name"


@dataclasses.dataclass(frozen=True)
class File:
    """A config file: the defaults that it starts from, and the values that it sets."""

    defaults: Layer
    layer: Layer
    stale: frozenset[str] = frozenset()  # paths set before their section got another entry

    @classmethod
    def of(cls, layer: Layer) -> "File":
        """Return a file that sets the values of a layer, over the defaults of the schema."""
        return cls(from_values(as_dict(Config()), DEFAULT), layer)


def from_values(values: Mapping[str, Any], origin: str) -> Layer:
    """Return the layer that sets every leaf of a tree, with one origin."""
    return {path: Setting(value, origin) for path, value in flatten(values).items()}


def from_file(tree: Tree | File | None) -> File:
    """Return the layers of the tree that `get_config` returns.

    A plain mapping or `ConfigDict` sets all of its leaves.
    """
    if isinstance(tree, File):
        return tree
    if not isinstance(tree, Settings):
        values = tree.to_dict() if isinstance(tree, ml_collections.ConfigDict) else tree or {}
        return File.of(from_values(values, "config"))
    defaults = from_values(as_dict(Config()), DEFAULT)
    leaves = dict(tree.leaves())
    layer = {path: setting for path, setting in leaves.items() if setting.origin}
    for path in leaves.keys() - layer.keys():
        # The values that `models.spec` filled in belong to the preset of the name.
        if not (path.startswith("model.") and "model.name" in layer):
            defaults[path] = Setting(leaves[path].value, DEFAULT)
    return File(defaults, layer, frozenset(tree.stale()))


def from_preset(name: str, parts: Mapping[str, str] | None = None) -> Layer:
    """Return every field of the preset of a model; `parts` replaces the names of some parts."""
    origin = f"preset {name}"
    fields = models.preset(name, parts)
    return {f"model.{path}": Setting(value, origin) for path, value in fields.items()}


def was_set(origin: str) -> bool:
    """Return whether an origin is a flag or a line of a config file."""
    below = ("preset ", "init_from ", "data ")
    inherited = origin.startswith(below) or origin.endswith("config.json")
    return origin != DEFAULT and not inherited


def choices(name: str) -> dict[str, Choice]:
    """Return the sections that select an entry of a table, by path, for a named model."""
    parts = {f"model.{key}": choice for key, choice in models.part_choices(name).items()}
    return parts | own_choices(Config)


def declarations(name: str, chosen: Mapping[str, str]) -> dict[str, Declared]:
    """Return the declaration of each setting, by path.

    Args:
      name: Name of the model.
      chosen: Name of the entry of each section of `choices`.
    """
    prefix = "model."
    parts = {p.removeprefix(prefix): text for p, text in chosen.items() if p.startswith(prefix)}
    fields = {f"{prefix}{p}": d for p, d in models.declarations(name, parts).items()}
    return {NAME: MODEL_NAME, **fields, **dict(_declared(Config, chosen, ""))}


def named_sections(name: str) -> list[str]:
    """Return the paths of the sections with a name; a text can be assigned to them instead."""
    chosen = {section: choice.name for section, choice in choices(name).items()}
    suffix = ".name"
    paths = declarations(name, chosen)
    return [path.removesuffix(suffix) for path in paths if path.endswith(suffix)]


def _declared(
    schema: type, chosen: Mapping[str, str], prefix: str
) -> Iterator[tuple[str, Declared]]:
    for key, setting in declare(schema, chosen).items():
        yield f"{prefix}{key}", setting
    for key, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _declared(hint, {}, f"{prefix}{key}.")


def expand(layer: Mapping[str, Any], sections: Iterable[str]) -> dict[str, Any]:
    """Replace texts for sections by their names: `model.attention` by `model.attention.name`.

    Args:
      layer: Values, settings or texts of flags by path.
      sections: Paths of sections with a name.

    Raises:
      ConfigError: A section has two different names.
    """
    expanded = dict(layer)
    for section in sections:
        if not isinstance(_value(expanded.get(section)), str):
            continue
        value = expanded.pop(section)
        before = expanded.setdefault(f"{section}.name", value)
        if _value(before) != _value(value):
            shown = f"{_value(before)} and {_value(value)}"
            raise ConfigError(f"config.{section}", f"expected one name, got {shown}")
    return expanded


def _value(item: Any) -> Any:
    return item.value if isinstance(item, Setting) else item


def merge(stack: Iterable[Layer]) -> Layer:
    """Merge layers; later ones win.

    A duration in a later layer also replaces that duration in any other unit.
    """
    merged: Layer = {}
    for layer in stack:
        for paths in DURATIONS.values():
            setters = [layer[path] for path in paths if path in layer]
            if setters:
                merged |= {p: Setting(0, setters[0].origin) for p in paths if p in merged}
        merged |= layer
    return merged
