"""The stack of layers for the model of a config.

The preset of the model name is the lowest layer. If a layer changes the name, the fields that the
new name states (sizes, patch and those of its series) also override the layer below. For example,
`--config.model.name=vit_b16` replaces the sizes that the config file set for another model, and
keeps its other fields.
"""

from collections.abc import Mapping
from typing import NamedTuple

from vit_jax import models
from vit_jax.config.choice_layers import (
    default_fields,
    drop_stale,
    drop_unused,
    names_set_by,
    select_entries,
)
from vit_jax.config.layers import FLAG, NAME, File, Layer, from_preset
from vit_jax.errors import ConfigError
from vit_jax.settings.recorded import Setting


def find_name(given: File, below: Layer, flags: Mapping[str, str]) -> Setting:
    """Return the name of the model and its origin.

    Args:
      given: The config file; an empty name selects the name in `below`.
      below: Settings of the pretrained weights, or of the run to evaluate or resume.
      flags: Texts by path.

    Raises:
      ConfigError: The model is unknown, or no layer has a name.
    """
    flag = {NAME: Setting(flags[NAME], FLAG)} if NAME in flags else {}
    stack = (flag, given.layer, below, given.defaults)
    name = next(layer[NAME] for layer in stack if NAME in layer)
    if name.value == "" and NAME not in below:
        problem = "expected a run folder or converted weights; or set config.model.name"
        raise ConfigError("config.init_from", problem)
    name = name if name.value != "" else below[NAME]
    if not isinstance(name.value, str):
        raise ConfigError("config.model.name", f"expected the name of a model, got {name.value!r}")
    models.family(name.value)
    name_in_file = given.layer.get(NAME, name)
    if not isinstance(name_in_file.value, str):
        problem = (
            f"expected the name of a model, got {name_in_file.value!r} ({name_in_file.origin})"
        )
        raise ConfigError("config.model.name", problem)
    return name


def check_family(name: Setting, below: Setting) -> None:
    """Check that a model is of the same family as the weights or the run in the layer below.

    Raises:
      ConfigError: It is of another family.
    """
    family = models.family(name.value).name
    own = models.family(below.value).name
    if family != own:
        problem = f"{name.value} ({name.origin}) is a {family}"
        weights = f"the weights are of a {below.value} ({below.origin}), a {own}"
        raise ConfigError("config.model.name", f"{problem}; {weights}")


class Stack(NamedTuple):
    """The layers below the flags, lowest first."""

    layers: list[Layer]
    chosen: Layer  # name of the entry of each section that selects one from a table
    notes: tuple[str, ...]  # on values that are not used


def stack(name: Setting, given: File, below: Layer, flags: Mapping[str, str]) -> Stack:
    """Return the layers below the flags.

    Args:
      name: Name of the model.
      given: The config file.
      below: Settings of the pretrained weights, or of the run to evaluate or resume.
      flags: Texts by path.

    Raises:
      ConfigError: The name of a section is not an entry of its table.
    """
    name_below = (below if NAME in below else given.defaults)[NAME].value
    name_in_file = given.layer[NAME].value if NAME in given.layer else ""
    name_in_file = name_in_file or name_below
    file_layer, notes = _drop_other_family(given.layer, name_in_file, name.value)
    layers_below, stated = _layers_below_file(name.value, below, name_below)
    layers_above = [stated] if name.value != name_in_file else []
    chosen = select_entries([*layers_below, file_layer, *layers_above], flags, name.value)
    chosen_by_file = names_set_by(
        [*_layers_below_file(name_in_file, below, name_below)[0], file_layer], name.value
    )
    changed = {path: s for path, s in chosen.items() if chosen_by_file[path].value != s.value}
    file_layer, dropped = drop_unused(file_layer, changed, name.value)
    file_layer, stale = drop_stale(file_layer, given.stale, chosen, name.value)
    stated, unused = drop_unused(stated, chosen, name.value)
    notes += dropped + stale + unused
    if layers_above:
        notes += _override_notes(file_layer, stated, name)
    used_layers = [
        drop_unused(layer, chosen, name.value)[0] for layer in (*layers_below[1:], *layers_above)
    ]
    used_layers.insert(len(layers_below) - 1, file_layer)
    defaults, preset = _defaults(name, given, below, chosen)
    return Stack([defaults, preset, *used_layers], chosen, notes)


def _layers_below_file(name: str, below: Layer, name_below: str) -> tuple[list[Layer], Layer]:
    """Return the layers below a config file, and the fields that the name of its model states.

    Args:
      name: Name of the model.
      below: Settings of the pretrained weights, or of the run to evaluate or resume.
      name_below: Name of the model in `below`.
    """
    preset = from_preset(name)
    # Weights of a model with this name may still have other sizes than its preset.
    source = {**preset, **below} if name == name_below else preset
    stated = {path: source[path] for path in (f"model.{key}" for key in models.stated_fields(name))}
    return [preset, below, *([stated] if name != name_below else [])], stated


def _defaults(name: Setting, given: File, below: Layer, chosen: Layer) -> tuple[Layer, Layer]:
    """Return the defaults of all other sections, and the preset with the selected parts."""
    prefix = "model."
    parts = {p.removeprefix(prefix): s.value for p, s in chosen.items() if p.startswith(prefix)}
    preset = from_preset(name.value, parts)
    defaults = {path: s for path, s in given.defaults.items() if not path.startswith(prefix)}
    if not below and given.defaults[NAME].value == name.value:
        own = {path: s for path, s in given.defaults.items() if path in preset}
        preset |= {path: Setting(s.value, preset[path].origin) for path, s in own.items()}
    defaults, _ = drop_unused(defaults, chosen, name.value)
    return {**default_fields(chosen, name.value), **defaults}, preset


def _override_notes(file_layer: Layer, stated: Layer, name: Setting) -> tuple[str, ...]:
    """Return a note on each field of a config file that the name of the model overrides."""
    return tuple(
        f"config.{path} is {stated[path].value} ({name.value}, by {name.origin}), "
        f"not {setting.value} ({setting.origin})"
        for path, setting in file_layer.items()
        if path in stated and setting.value != stated[path].value
    )


def _drop_other_family(layer: Layer, before: str, name: str) -> tuple[Layer, tuple[str, ...]]:
    """Drop from the layer of a config file the architecture of a model of another family.

    Args:
      layer: The layer of the file.
      before: Name of the model in the file.
      name: Name of the model.

    Returns:
      The remaining layer, and a note on each dropped field.
    """
    family, other = models.family(name).name, models.family(before).name
    if family == other:
        return layer, ()
    kept_fields = {k for k, d in models.all_declarations(name).items() if d.inherit == "never"}
    dropped = {
        f"model.{k}" for k in models.all_declarations(before).keys() - kept_fields
    } & layer.keys()
    notes = (
        f"config.{path} ({layer[path].origin}) is not used: {name} is a {family}, not a {other}"
        for path in sorted(dropped)
    )
    return {path: s for path, s in layer.items() if path not in dropped}, tuple(notes)
