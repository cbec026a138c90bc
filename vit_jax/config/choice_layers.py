"""Layers of config sections that select an entry of a table: the entry, and the fields it has.

If a layer selects another entry than the layers below it, the fields that only the former entry has
are dropped from those layers, with a note if the config file set them.
"""

from collections.abc import Collection, Iterable, Mapping

from vit_jax.config.layers import DEFAULT, FLAG, Layer, choices, merge
from vit_jax.errors import ConfigError, suggest_or_import
from vit_jax.settings.choices import own_fields
from vit_jax.settings.recorded import Setting


def names_set_by(stack: Iterable[Layer], name: str) -> Layer:
    """Return the name of the entry of each section, as set by layers, by the path of the section.

    Args:
      stack: Layers, lowest first.
      name: Name of the model.
    """
    merged = merge(stack)
    return {
        section: merged.get(f"{section}.name", Setting(choice.name, DEFAULT))
        for section, choice in choices(name).items()
    }


def select_entries(stack: Iterable[Layer], flags: Mapping[str, str], name: str) -> Layer:
    """Return the name of the entry of each section, by the path of the section.

    Args:
      stack: Layers, lowest first.
      flags: Texts by path, which win over all layers.
      name: Name of the model.

    Raises:
      ConfigError: A name is not an entry of its table.
    """
    chosen = names_set_by(stack, name)
    for section, choice in choices(name).items():
        path = f"{section}.name"
        if path in flags:
            chosen[section] = Setting(flags[path], FLAG)
        value, origin = chosen[section]
        if not isinstance(value, str):
            problem = f"expected a name, got {value!r}{origin_suffix(origin)}"
            raise ConfigError(f"config.{path}", problem)
        if value not in choice.table:
            problem = f"unknown '{value}'; {suggest_or_import(value, choice.table)}"
            raise ConfigError(f"config.{path}", f"{problem}{origin_suffix(origin)}")
    return chosen


def default_fields(chosen: Layer, name: str) -> Layer:
    """Return the default fields of the selected entries, except those of the model.

    Args:
      chosen: Name of the entry of each section.
      name: Name of the model.
    """
    table = choices(name)
    return {
        f"{section}.{key}": Setting(value, DEFAULT)
        for section, setting in chosen.items()
        for key, value in table[section].defaults(setting.value).items()
        if not section.startswith("model.")
    }


def drop_unused(layer: Layer, chosen: Layer, name: str) -> tuple[Layer, tuple[str, ...]]:
    """Drop from a layer the fields that the selected entries do not have.

    Args:
      layer: The layer.
      chosen: Name of the entry of each section to consider.
      name: Name of the model.

    Returns:
      The remaining layer, and a note on each dropped field.
    """
    dropped = {
        path: setting
        for section, setting in chosen.items()
        for path in layer
        if path.startswith(f"{section}.")
        and _belongs_to_other_entry(path, section, setting.value, name)
    }
    notes = (
        f"config.{path} ({layer[path].origin}) is not used: {setting.value} has no such field"
        for path, setting in sorted(dropped.items())
    )
    return {path: s for path, s in layer.items() if path not in dropped}, tuple(notes)


def drop_stale(
    layer: Layer, stale: Collection[str], chosen: Layer, name: str
) -> tuple[Layer, tuple[str, ...]]:
    """Drop from a layer the fields that it set for an entry before it selected another one.

    Args:
      layer: The layer.
      stale: Paths that the layer set before it selected another entry.
      chosen: Name of the entry of each section.
      name: Name of the model.

    Returns:
      The remaining layer, and a note on each dropped field.
    """
    set_before = {path: setting for path, setting in layer.items() if path in stale}
    kept, notes = drop_unused(set_before, chosen, name)
    return {path: s for path, s in layer.items() if path not in set_before or path in kept}, notes


def describe_owners(path: str, chosen: Layer, name: str) -> str:
    """Explain why a section does not have a field; empty if no entry has such a field."""
    section, _, key = path.rpartition(".")
    choice = choices(name).get(section)
    return choice.describe_owners(section, chosen[section].value, key) if choice else ""


def origin_suffix(origin: str) -> str:
    """Return ` (ORIGIN)` for the end of an error; empty for defaults, presets and flags."""
    return "" if origin in ("", DEFAULT, FLAG) or origin.startswith("preset ") else f" ({origin})"


def _belongs_to_other_entry(path: str, section: str, entry: str, name: str) -> bool:
    """Return whether an entry lacks a field that other entries have."""
    key = path.removeprefix(f"{section}.")
    choice = choices(name)[section]
    return key not in ("name", *own_fields(choice.table[entry])) and bool(choice.owners(key))
