"""The sections of a config that are one of a table: which entry is chosen, and which fields it has.

A layer that chooses another entry leaves the fields of the former one, in the layers below it,
without a use: they are dropped, with a note if the config file set them.
"""

from collections.abc import Collection, Iterable, Mapping

from vit_jax.config.layers import DEFAULT, FLAG, Layer, choices, merge
from vit_jax.errors import ConfigError, suggest_or_import
from vit_jax.settings.choices import own_fields
from vit_jax.settings.recorded import Setting


def names_in(stack: Iterable[Layer], name: str) -> Layer:
    """Return the name of each section, by the path of the section, as layers have it.

    Args:
      stack: Layers, lowest first.
      name: Of the model.
    """
    merged = merge(stack)
    return {
        section: merged.get(f"{section}.name", Setting(choice.name, DEFAULT))
        for section, choice in choices(name).items()
    }


def choose(stack: Iterable[Layer], flags: Mapping[str, str], name: str) -> Layer:
    """Return the name of each section, by the path of the section.

    Args:
      stack: Layers, lowest first.
      flags: Texts by path, above all layers.
      name: Of the model.

    Raises:
      ConfigError: A table has no such entry.
    """
    chosen = names_in(stack, name)
    for section, choice in choices(name).items():
        path = f"{section}.name"
        if path in flags:
            chosen[section] = Setting(flags[path], FLAG)
        value, origin = chosen[section]
        if not isinstance(value, str):
            problem = f"expected a name, got {value!r}{where(origin)}"
            raise ConfigError(f"config.{path}", problem)
        if value not in choice.table:
            problem = f"unknown '{value}'; {suggest_or_import(value, choice.table)}"
            raise ConfigError(f"config.{path}", f"{problem}{where(origin)}")
    return chosen


def of_choices(chosen: Layer, name: str) -> Layer:
    """Return the defaults of the fields of each chosen entry.

    Args:
      chosen: The name of each section.
      name: Of the model.
    """
    table = choices(name)
    return {
        f"{section}.{key}": Setting(value, DEFAULT)
        for section, setting in chosen.items()
        for key, value in table[section].defaults(setting.value).items()
        if not section.startswith("model.")
    }


def drop_unused(layer: Layer, chosen: Layer, name: str) -> tuple[Layer, tuple[str, ...]]:
    """Return a layer without the fields that the chosen entries do not have.

    Args:
      layer: The layer.
      chosen: The name of each section that is looked at.
      name: Of the model.

    Returns:
      The rest of the layer, and a note on each field that is not in it.
    """
    dropped = {
        path: setting
        for section, setting in chosen.items()
        for path in layer
        if path.startswith(f"{section}.") and _is_of_another(path, section, setting.value, name)
    }
    notes = (
        f"config.{path} ({layer[path].origin}) is not used: {setting.value} has no such field"
        for path, setting in sorted(dropped.items())
    )
    return {path: s for path, s in layer.items() if path not in dropped}, tuple(notes)


def drop_stale(
    layer: Layer, stale: Collection[str], chosen: Layer, name: str
) -> tuple[Layer, tuple[str, ...]]:
    """Return a layer without what it sets for an entry before it chooses another one itself.

    Args:
      layer: The layer.
      stale: The paths of what it sets before.
      chosen: The name of each section.
      name: Of the model.
    """
    before = {path: setting for path, setting in layer.items() if path in stale}
    kept, notes = drop_unused(before, chosen, name)
    return {path: s for path, s in layer.items() if path not in before or path in kept}, notes


def describe_owners(path: str, chosen: Layer, name: str) -> str:
    """Return why a field of a section does not exist, or nothing where no entry has it."""
    section, _, key = path.rpartition(".")
    choice = choices(name).get(section)
    return choice.describe_owners(section, chosen[section].value, key) if choice else ""


def where(origin: str) -> str:
    """Return the end of a message about a setting, where its path does not tell who set it."""
    return "" if origin in ("", DEFAULT, FLAG) or origin.startswith("preset ") else f" ({origin})"


def _is_of_another(path: str, section: str, entry: str, name: str) -> bool:
    """Return whether other entries have a field that this one lacks."""
    key = path.removeprefix(f"{section}.")
    choice = choices(name)[section]
    return key not in ("name", *own_fields(choice.table[entry])) and bool(choice.owners(key))
