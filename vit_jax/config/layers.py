"""Layers of settings, each from one place; later ones win, and every value keeps its origin."""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import ml_collections

from vit_jax import models
from vit_jax.config.schema import DURATIONS, Config, as_dict, flatten
from vit_jax.settings.recorded import Setting, Settings

Layer = dict[str, Setting]  # by path, such as `optim.learning_rate`
Tree: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any]

DEFAULT = "default"
FLAG = "flag"

NAME = "model.name"


@dataclasses.dataclass(frozen=True)
class File:
    """What a config file gives: the values that it starts from, and those that it sets."""

    defaults: Layer
    layer: Layer

    @classmethod
    def of(cls, layer: Layer) -> "File":
        """Return what sets these leaves over the defaults of the schema."""
        return cls(from_values(as_dict(Config()), DEFAULT), layer)


def from_values(values: Mapping[str, Any], origin: str) -> Layer:
    """Return the layer that sets every leaf of a tree."""
    return {path: Setting(value, origin) for path, value in flatten(values).items()}


def from_file(tree: Tree | File | None) -> File:
    """Return the layers of a tree from `get_config`; any other tree sets all of its leaves."""
    if isinstance(tree, File):
        return tree
    if not isinstance(tree, Settings):
        values = tree.to_dict() if isinstance(tree, ml_collections.ConfigDict) else tree or {}
        return File.of(from_values(values, "config"))
    defaults = from_values(as_dict(Config()), DEFAULT)
    leaves = dict(tree.leaves())
    layer = {path: setting for path, setting in leaves.items() if setting.origin}
    for path in leaves.keys() - layer.keys():
        # What `models.spec` filled in belongs to the preset, whose name is set.
        if not (path.startswith("model.") and "model.name" in layer):
            defaults[path] = Setting(leaves[path].value, DEFAULT)
    return File(defaults, layer)


def from_preset(name: str) -> Layer:
    """Return every field of a named model."""
    values = models.spec(name).to_dict()
    del values["name"]
    return from_values({"model": values}, f"preset {name}")


def was_set(origin: str) -> bool:
    """Return whether somebody set a value of this origin: by a flag, or in a config file."""
    inherited = origin.startswith(("preset ", "donor ", "data ")) or origin.endswith("config.json")
    return origin != DEFAULT and not inherited


def field_types(name: str) -> dict[str, Any]:
    """Return the type of each field by path, for a config whose model has this name."""
    types = {f"model.{key}": hint for key, hint in models.field_types(name).items()}
    return types | {NAME: str} | dict(_types_of(Config, ""))


def _types_of(schema: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _types_of(hint, f"{prefix}{key}.")
        elif key != "model":
            yield f"{prefix}{key}", hint


def merge(stack: Iterable[Layer]) -> Layer:
    """Merge layers, of which later ones win.

    A duration that a layer sets takes the place of the earlier layers' in whatever unit.
    """
    merged: Layer = {}
    for layer in stack:
        for paths in DURATIONS.values():
            setters = [layer[path] for path in paths if path in layer]
            if setters:
                off = {p: Setting(0, setters[0].origin) for p in paths if p in merged}
                merged |= off
        merged |= layer
    return merged
