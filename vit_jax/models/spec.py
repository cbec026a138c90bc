"""The model section of a config: the name of a model, its fields, and a section per part.

spec("vit_s16", pool="gap", attention={"name": "window", "window": (4, 4)})
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
from flax.core import FrozenDict

from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.models.families import family, stated_fields
from vit_jax.models.parts import Part
from vit_jax.models.transformer import Transformer
from vit_jax.settings.choices import (
    Choice,
    Declared,
    check_values,
    declare,
    own_choices,
    own_fields,
)
from vit_jax.settings.fields import coerce
from vit_jax.settings.recorded import Settings, calling_line

Fields = dict[str, Any]  # by path, such as `width` and `stem.patch`


def spec(name: str, **overrides: Any) -> Settings:
    """Return the model section of a config: the name and every field of the model.

    In a config file, the name and the overrides count as set by that file. All other fields come
    from the preset of the name.

    Args:
      name: Name of the model.
      **overrides: Values of fields. A part is set by its name, or by a mapping with its name and
        fields.

    Raises:
      ConfigError: A model, part or field is unknown.
    """
    given = _flatten(name, overrides)
    parts = {key: given[f"{key}.name"] for key in part_choices(name) if f"{key}.name" in given}
    fields = preset(name, parts)
    for path in given:
        if path not in fields:
            raise ConfigError(f"config.model.{path}", _explain(name, path, fields))
    section = Settings({"name": name, **_nest(fields)})
    origin = calling_line()
    for path, value in {"name": name, **given}.items():
        key, _, inner = path.partition(".")
        (section[key] if inner else section).record(inner or key, value, origin)
    return section


def create(name: str, **overrides: Any) -> Transformer:
    """Create a model by name.

    Args:
      name: Name of the model.
      **overrides: Values of fields, as for `spec`.

    Raises:
      ConfigError: A model, part or field is unknown, or a value has the wrong type or is invalid.
    """
    section = spec(name, **overrides).to_dict()
    fields = _flatten(name, section)
    del fields["name"]
    choices = part_choices(name)
    chosen = {key: fields[f"{key}.name"] for key in choices}
    declared = declarations(name, chosen)
    for path, setting in declared.items():
        fields[path] = coerce(fields[path], setting.type, f"config.model.{path}")
    check_values(declared, fields, "config.model")
    values = {path: value for path, value in fields.items() if "." not in path}
    for key, choice in choices.items():
        own = {k: fields[f"{key}.{k}"] for k in section[key] if k != "name"}
        values[key] = Part(choice.table[chosen[key]], FrozenDict(own))
    model = family(name).module(**values)
    for path, problem in model.find_problems():
        raise ConfigError(f"config.model.{path}", problem)
    return model


def preset(name: str, parts: Mapping[str, str] | None = None) -> Fields:
    """Return the value of every field of a named model, by path.

    Args:
      name: Name of the model.
      parts: Names of parts that replace those of the preset, such as `{"attention": "window"}`.

    Raises:
      ConfigError: A model or part is unknown.
    """
    chosen = part_names(name) | dict(parts or {})
    declared = declarations(name, chosen)
    fields: Fields = {path: setting.field.default for path, setting in declared.items()}
    for key, choice in part_choices(name).items():
        fields |= {f"{key}.{inner}": v for inner, v in choice.defaults(chosen[key]).items()}
    stated = stated_fields(name) | {f"{key}.name": text for key, text in chosen.items()}
    return fields | {path: value for path, value in stated.items() if path in fields}


def part_choices(name: str) -> dict[str, Choice]:
    """Return the exchangeable parts of a named model, by the name of their section.

    Raises:
      ConfigError: The model is unknown.
    """
    return own_choices(family(name).module)


def part_names(name: str) -> dict[str, str]:
    """Return the name of each part in the preset of a named model."""
    stated = stated_fields(name)
    return {key: stated.get(f"{key}.name", c.name) for key, c in part_choices(name).items()}


def declarations(name: str, parts: Mapping[str, str]) -> dict[str, Declared]:
    """Return the declaration of every field of a named model, by path.

    Args:
      name: Name of the model.
      parts: Name of each of its parts.

    Raises:
      ConfigError: A model or part is unknown.
    """
    for key, choice in part_choices(name).items():
        pick(choice.table, parts[key], f"config.model.{key}.name")
    return declare(family(name).module, parts)


def all_declarations(name: str) -> dict[str, Declared]:
    """Return the declaration of every field that a named model can have with any parts, by path.

    Raises:
      ConfigError: The model is unknown.
    """
    declared = declarations(name, part_names(name))
    for key, choice in part_choices(name).items():
        for entry in choice.table.values():
            declared |= {f"{key}.{inner}": d for inner, d in own_fields(entry).items()}
    return declared


def _flatten(name: str, section: Mapping[str, Any]) -> Fields:
    """Return the fields of a section by path; a part given as text becomes the path of its name.

    Raises:
      ConfigError: The name of a part is not text, or a field has two values.
    """
    fields: Fields = {}
    parts = part_choices(name)
    for key, value in section.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            given = {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            given = {f"{key}.name" if key in parts else key: value}
        for path, item in given.items():
            if fields.setdefault(path, item) != item:
                problem = f"expected one value, got {fields[path]!r} and {item!r}"
                raise ConfigError(f"config.model.{path}", problem)
    for key in parts:
        chosen = fields.get(f"{key}.name", "")
        if not isinstance(chosen, str):
            raise ConfigError(f"config.model.{key}.name", f"expected a name, got {chosen!r}")
    return fields


def _explain(name: str, path: str, fields: Fields) -> str:
    """Return an error message for a field that a model does not have."""
    section, _, key = path.rpartition(".")
    choices = part_choices(name)
    if section in choices:
        entry = fields[f"{section}.name"]
        if problem := choices[section].describe_owners(f"model.{section}", entry, key):
            return problem
    return f"{name} has no such field; {suggest(path, [*fields, *choices])}"


def _nest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested fields: the inverse of `_flatten`."""
    section: dict[str, Any] = {}
    for path, value in fields.items():
        key, _, inner = path.partition(".")
        if inner:
            section.setdefault(key, {})[inner] = value
        else:
            section[key] = value
    return section
