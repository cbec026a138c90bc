"""Sections that are one of a table: a name, and the fields of the class that the table has for it.

    attention.name = window        # chooses the class
    attention.window = (7, 7)      # a field of that class

A field of a class is a setting if it is declared by `fields.field`, which describes it.
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
    """A section that is one of a table: its default name, and fields with other defaults."""

    table: Table
    name: str
    fields: Mapping[str, Any]

    def defaults(self, name: str) -> dict[str, Any]:
        """Return the fields of an entry where nobody sets them."""
        own = {
            key: declared.field.default for key, declared in own_fields(self.table[name]).items()
        }
        return own | {key: value for key, value in self.fields.items() if key in own}

    def section(self) -> dict[str, Any]:
        """Return the section where nobody sets anything."""
        return {"name": self.name, **self.defaults(self.name)}

    def owners(self, key: str) -> list[str]:
        """Return the entries that have a field."""
        return [name for name, schema in self.table.items() if key in own_fields(schema)]

    def describe_owners(self, section: str, name: str, key: str) -> str:
        """Return why an entry does not have a field, or nothing where there is no more to say.

        Args:
          section: The path of the section.
          name: Of the entry.
          key: Of the field.
        """
        if owners := " or ".join(self.owners(key)):
            return f"{name} has no such field; it belongs to {section}={owners}"
        if key in {field.name for field in dataclasses.fields(self.table[name])}:
            return f"no setting of {name}, whose class does not declare it by `field` or the like"
        return ""


class Declared(NamedTuple):
    """A setting as a class declares it."""

    type: Any
    field: dataclasses.Field[Any]

    @property
    def help(self) -> str:
        """What it means; with the names that it may have."""
        text: str = self.field.metadata["help"]
        choice = self.field.metadata.get("choice")
        choices = choice.table if choice else self.field.metadata.get("choices")
        return f"{text}: {', '.join(choices)}" if choices else text

    @property
    def inherit(self) -> Inherit:
        """What a run that starts from other weights does with it."""
        how: Inherit = self.field.metadata["inherit"]
        return how


def choice(
    table: Table,
    name: str,
    help: str,
    *,
    make: Callable[[Choice], Any],
    inherit: Inherit = "never",
    fields: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a section that is one of a table.

    Args:
      table: Classes by name.
      name: The entry where nobody chooses one.
      help: What is chosen.
      make: What a class holds that is made without this field.
      inherit: What a run that starts from other weights does with the name.
      fields: Values of fields where they are not those of the chosen class.
    """
    chosen = Choice(table, name, fields or {})
    metadata = {"help": help, "inherit": inherit, "choice": chosen}
    return dataclasses.field(default_factory=lambda: make(chosen), metadata=metadata)


def own_fields(schema: type) -> dict[str, Declared]:
    """Return the settings of a class, by name; those that are sections are not among them.

    Raises:
      ValueError: One is called `name`, which is what chooses the class.
    """
    fields = {key: found for key, found in _declared(schema).items() if not _choice_of(found)}
    if "name" in fields:
        raise ValueError(f"{schema.__name__}: a setting cannot be called 'name'")
    return fields


def own_choices(schema: type) -> dict[str, Choice]:
    """Return the sections of a class that are one of a table, by name."""
    found = {key: _choice_of(declared) for key, declared in _declared(schema).items()}
    return {key: chosen for key, chosen in found.items() if chosen}


def declare(schema: type, chosen: Mapping[str, str]) -> dict[str, Declared]:
    """Return every setting of a class by path, such as `width` and `attention.window`.

    Args:
      schema: The class.
      chosen: The name of each of its sections.
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
    """Check every value, by path, against the range and the choices of its field.

    Raises:
      ConfigError: One is out of range, or not a choice.
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
    found: Choice | None = declared.field.metadata.get("choice")
    return found
