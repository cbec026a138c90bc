"""The layers of a config whose model has a certain name.

A name stands for the fields that its preset states: sizes, patch, and what its family changes. The
whole preset is the lowest layer of the model. Where a name differs from that of the layer below the
one that sets it, what it states also goes over that layer: `--config.model.name=vit_b16` brings its
sizes, whatever sizes the file set for another name, and keeps the file's other fields.
"""

from collections.abc import Mapping

from vit_jax import models
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
    family, own = models.family(name.value), models.family(below.value)
    if family != own:
        problem = f"{name.value} ({name.origin}) is a {family}"
        weights = f"the weights are those of a {below.value} ({below.origin}), a {own}"
        raise ConfigError("config.model.name", f"{problem}; {weights}")


def stack(name: Setting, given: File, below: Layer) -> tuple[list[Layer], tuple[str, ...]]:
    """Return the layers below the flags, lowest first, and notes on what they leave out.

    Args:
      name: Of the model.
      given: The config file.
      below: The weights that a run starts from, or the run itself.
    """
    preset = from_preset(name.value)
    defaults = {path: s for path, s in given.defaults.items() if not path.startswith("model.")}
    if not below and given.defaults[NAME].value == name.value:
        own = {path: s for path, s in given.defaults.items() if path in preset}
        preset |= {path: Setting(s.value, preset[path].origin) for path, s in own.items()}
    name_below = (below if NAME in below else given.defaults)[NAME].value
    name_in_file = given.layer[NAME].value if NAME in given.layer else ""
    file_layer, notes = _for_family(given.layer, name_in_file or name_below, name.value)
    # The weights of this very model may have other sizes than the preset.
    source = {**preset, **below} if name.value == name_below else preset
    stated = {f"model.{key}": source[f"model.{key}"] for key in models.stated_fields(name.value)}
    layers = [defaults, preset, below]
    if name.value != name_below:
        layers.append(stated)
    layers.append(file_layer)
    if name.value != (name_in_file or name_below):
        layers.append(stated)
        notes += tuple(
            f"config.{path} is {stated[path].value} ({name.value}, by {name.origin}), "
            f"not {setting.value} ({setting.origin})"
            for path, setting in file_layer.items()
            if path in stated and setting.value != stated[path].value
        )
    return layers, notes


def _for_family(layer: Layer, before: str, name: str) -> tuple[Layer, tuple[str, ...]]:
    """Return what a file sets, without the architecture of a model of another family.

    Args:
      layer: Of the file.
      before: The name of the model that the file is about.
      name: Of the model.
    """
    family, other = models.family(name), models.family(before)
    if family == other:
        return layer, ()
    shared = {key for key, how in models.inheritance(name).items() if how == "never"}
    dropped = {f"model.{key}" for key in models.field_types(before).keys() - shared} & layer.keys()
    notes = (
        f"config.{path} ({layer[path].origin}) is not used: {name} is a {family}, not a {other}"
        for path in sorted(dropped)
    )
    return {path: s for path, s in layer.items() if path not in dropped}, tuple(notes)
