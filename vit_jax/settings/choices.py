"""Config sections that select a class from a table by name, and have the fields of that class.

    attention.name = window        # selects the class
    attention.window = (7, 7)      # a field of that class

A dataclass field is a setting if it is declared with `fields.field`.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vit_jax.errors import pick
from vit_jax.settings.fields import Inherit, check_value

Table = Mapping[str, type]


class Choice(NamedTuple):
    """The declaration of such a section."""

    table: Table
    name: str  # default entry of the table
    fields: Mapping[str, Any]  # defaults that replace those of the entry

    def defaults(self, name: str) -> dict[str, Any]:
        """Return the default value of each field of an entry."""
        own = {
            key: declared.field.default for key, declared in own_fields(self.table[name]).items()
        }
        return own | {key: value for key, value in self.fields.items() if key in own}

    def section(self) -> dict[str, Any]:
        """Return the section with all default values."""
        return {"name": self.name, **self.defaults(self.name)}

    def owners(self, key: str) -> list[str]:
        """Return the names of the entries that have a field."""
        return [name for name, schema in self.table.items() if key in own_fields(schema)]

    def describe_owners(self, section: str, name: str, key: str) -> str:
        """Explain why an entry does not have a field.

        Args:
          section: Path of the section.
          name: Name of the entry.
          key: Name of the field.

        Returns:
          The explanation, or an empty text if no entry has such a field.
        """
        if owners := " or ".join(self.owners(key)):
            return f"{name} has no such field; it belongs to {section}={owners}"
        if key in {field.name for field in dataclasses.fields(self.table[name])}:
            return f"not a setting of {name}; its class does not declare it with `field`"
        return ""


class Declared(NamedTuple):
    """The declaration of a setting: its type and its dataclass field."""

    type: Any
    field: dataclasses.Field[Any]

    @property
    def help(self) -> str:
        """The description, followed by the allowed names, if any."""
        text: str = self.field.metadata["help"]
        choice = self.field.metadata.get("choice")
        choices = choice.table if choice else self.field.metadata.get("choices")
        return f"{text}: {', '.join(choices)}" if choices else text

    @property
    def inherit(self) -> Inherit:
        """How a run that starts from pretrained weights treats the setting."""
        inherit: Inherit = self.field.metadata["inherit"]
        return inherit


def choice(
    table: Table,
    name: str,
    help: str,
    *,
    make: Callable[[Choice], Any],
    inherit: Inherit = "never",
    fields: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a section that selects an entry of a table.

    Args:
      table: Classes by name.
      name: Name of the default entry.
      help: Description of the section.
      make: Function that makes the default value of the field from the `Choice`.
      inherit: How a run that starts from pretrained weights treats the name.
      fields: Defaults that replace those of the entry.
    """
    chosen = Choice(table, name, fields or {})
    metadata = {"help": help, "inherit": inherit, "choice": chosen}
    return dataclasses.field(default_factory=lambda: make(chosen), metadata=metadata)


def own_fields(schema: type) -> dict[str, Declared]:
    """Return the settings of a class that are not sections, by name.

    Raises:
      ValueError: A setting is called `name`, which is reserved for the name of the entry.
    """
    fields = {key: field for key, field in _declared(schema).items() if not _choice_of(field)}
    if "name" in fields:
        raise ValueError(f"{schema.__name__}: a setting cannot be called 'name'; rename it")
    return fields


def own_choices(schema: type) -> dict[str, Choice]:
    """Return the sections of a class that select an entry of a table, by name."""
    choices = {key: _choice_of(declared) for key, declared in _declared(schema).items()}
    return {key: choice for key, choice in choices.items() if choice}


def declare(schema: type, chosen: Mapping[str, str]) -> dict[str, Declared]:
    """Return every setting of a class by path, such as `width` and `attention.window`.

    Args:
      schema: The class.
      chosen: Name of the selected entry of each section.
    """
    settings = {}
    for key, declared in _declared(schema).items():
        section = _choice_of(declared)
        if section is None:
            settings[key] = declared
            continue
        settings[f"{key}.name"] = Declared(str, declared.field)
        for name, inner in own_fields(section.table[chosen[key]]).items():
            settings[f"{key}.{name}"] = inner
    return settings


def check_values(declared: Mapping[str, Declared], values: Mapping[str, Any], path: str) -> None:
    """Check values by path against the range and the choices of their fields.

    Args:
      declared: Declarations by path.
      values: Values by path.
      path: Path of the section, for errors.

    Raises:
      ConfigError: A value is out of range, or not one of the choices.
    """
    for key, setting in declared.items():
        section = _choice_of(setting)
        if section is None:
            check_value(values[key], setting.field, f"{path}.{key}")
        else:
            pick(section.table, values[key], f"{path}.{key}")


@functools.cache
def _declared(schema: type) -> dict[str, Declared]:
    hints = typing.get_type_hints(schema)
    return {
        field.name: Declared(hints[field.name], field)
        for field in dataclasses.fields(schema)
        if "help" in field.metadata
    }


def _choice_of(declared: Declared) -> Choice | None:
    choice: Choice | None = declared.field.metadata.get("choice")
    return choice
