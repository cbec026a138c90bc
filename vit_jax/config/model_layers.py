"""The layers of a config whose model has a certain name.

A name stands for the fields that its preset states: sizes, patch, and what its family changes. The
whole preset is the lowest layer of the model. Where a name differs from that of the layer below the
one that sets it, what it states also goes over that layer: `--config.model.name=vit_b16` brings its
sizes, whatever sizes the file set for another name, and keeps the file's other fields.
"""

from collections.abc import Mapping
from typing import NamedTuple

from vit_jax import models
from vit_jax.config.choice_layers import choose, drop_stale, drop_unused, names_in, of_choices
from vit_jax.config.layers import FLAG, NAME, File, Layer, from_preset
from vit_jax.errors import ConfigError
from vit_jax.settings.recorded import Setting


def find_name(given: File, below: Layer, flags: Mapping[str, str]) -> Setting:
    """Return the name of the model, and who gave it.

    Args:
      given: The config file; an empty name leaves it to what is below.
      below: The weights that a run starts from, or the run itself.
      flags: Texts by path.

    Raises:
      ConfigError: No such model, or nobody names one.
    """
    flag = {NAME: Setting(flags[NAME], FLAG)} if NAME in flags else {}
    stack = (flag, given.layer, below, given.defaults)
    name = next(layer[NAME] for layer in stack if NAME in layer)
    if name.value == "" and NAME not in below:
        problem = "expected a run folder or converted weights, or a config.model.name"
        raise ConfigError("config.init_from", problem)
    name = name if name.value != "" else below[NAME]
    if not isinstance(name.value, str):
        raise ConfigError("config.model.name", f"expected the name of a model, got {name.value!r}")
    models.family(name.value)
    in_file = given.layer.get(NAME, name)
    if not isinstance(in_file.value, str):
        problem = f"expected the name of a model, got {in_file.value!r} ({in_file.origin})"
        raise ConfigError("config.model.name", problem)
    return name


def check_family(name: Setting, below: Setting) -> None:
    """Check that a model is of the family of the weights, or of the run, below it.

    Raises:
      ConfigError: It is not.
    """
    family = models.family(name.value).name
    own = models.family(below.value).name
    if family != own:
        problem = f"{name.value} ({name.origin}) is a {family}"
        weights = f"the weights are those of a {below.value} ({below.origin}), a {own}"
        raise ConfigError("config.model.name", f"{problem}; {weights}")


class Stack(NamedTuple):
    """The layers below the flags, lowest first."""

    layers: list[Layer]
    chosen: Layer  # the name of each section that is one of a table
    notes: tuple[str, ...]  # on what the layers leave out


def stack(name: Setting, given: File, below: Layer, flags: Mapping[str, str]) -> Stack:
    """Return the layers below the flags.

    Args:
      name: Of the model.
      given: The config file.
      below: The weights that a run starts from, or the run itself.
      flags: Texts by path.

    Raises:
      ConfigError: A section is none of its table.
    """
    name_below = (below if NAME in below else given.defaults)[NAME].value
    in_file = given.layer[NAME].value if NAME in given.layer else ""
    in_file = in_file or name_below
    file_layer, notes = _for_family(given.layer, in_file, name.value)
    lower, of_name = _below_file(name.value, below, name_below)
    upper = [of_name] if name.value != in_file else []
    chosen = choose([*lower, file_layer, *upper], flags, name.value)
    by_file = names_in([*_below_file(in_file, below, name_below)[0], file_layer], name.value)
    others = {path: s for path, s in chosen.items() if by_file[path].value != s.value}
    file_layer, dropped = drop_unused(file_layer, others, name.value)
    file_layer, stale = drop_stale(file_layer, given.stale, chosen, name.value)
    _, unused = drop_unused(of_name, chosen, name.value)
    of_name, _ = drop_unused(of_name, chosen, name.value)
    notes += dropped + stale + unused
    if upper:
        notes += _overridden(file_layer, of_name, name)
    fitted = [drop_unused(layer, chosen, name.value)[0] for layer in (*lower[1:], *upper)]
    fitted.insert(len(lower) - 1, file_layer)
    defaults, preset = _defaults(name, given, below, chosen)
    return Stack([defaults, preset, *fitted], chosen, notes)


def _below_file(name: str, below: Layer, name_below: str) -> tuple[list[Layer], Layer]:
    """Return the layers below a file that is about a model, and what the model's name states.

    Args:
      name: Of the model.
      below: The weights that a run starts from, or the run itself.
      name_below: The name of their model.
    """
    preset = from_preset(name)
    # The weights of this very model may have other sizes than the preset.
    source = {**preset, **below} if name == name_below else preset
    of_name = {
        path: source[path] for path in (f"model.{key}" for key in models.stated_fields(name))
    }
    return [preset, below, *([of_name] if name != name_below else [])], of_name


def _defaults(name: Setting, given: File, below: Layer, chosen: Layer) -> tuple[Layer, Layer]:
    """Return the defaults outside of the model, and the preset with the chosen parts."""
    prefix = "model."
    parts = {p.removeprefix(prefix): s.value for p, s in chosen.items() if p.startswith(prefix)}
    preset = from_preset(name.value, parts)
    defaults = {path: s for path, s in given.defaults.items() if not path.startswith(prefix)}
    if not below and given.defaults[NAME].value == name.value:
        own = {path: s for path, s in given.defaults.items() if path in preset}
        preset |= {path: Setting(s.value, preset[path].origin) for path, s in own.items()}
    defaults, _ = drop_unused(defaults, chosen, name.value)
    return {**of_choices(chosen, name.value), **defaults}, preset


def _overridden(file_layer: Layer, stated: Layer, name: Setting) -> tuple[str, ...]:
    """Return a note on each field that a file sets, and that the name above it states."""
    return tuple(
        f"config.{path} is {stated[path].value} ({name.value}, by {name.origin}), "
        f"not {setting.value} ({setting.origin})"
        for path, setting in file_layer.items()
        if path in stated and setting.value != stated[path].value
    )


def _for_family(layer: Layer, before: str, name: str) -> tuple[Layer, tuple[str, ...]]:
    """Return what a file sets, without the architecture of a model of another family.

    Args:
      layer: Of the file.
      before: The name of the model that the file is about.
      name: Of the model.
    """
    family, other = models.family(name).name, models.family(before).name
    if family == other:
        return layer, ()
    of_run = {k for k, d in models.all_declarations(name).items() if d.inherit == "never"}
    dropped = {f"model.{k}" for k in models.all_declarations(before).keys() - of_run} & layer.keys()
    notes = (
        f"config.{path} ({layer[path].origin}) is not used: {name} is a {family}, not a {other}"
        for path in sorted(dropped)
    )
    return {path: s for path, s in layer.items() if path not in dropped}, tuple(notes)
