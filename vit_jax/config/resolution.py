"""From layers of settings to one frozen config, of which every value keeps its origin.

resolve(file, flags): default < preset < weights | run < file < flags -> typed -> checked
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from vit_jax import models
from vit_jax.config import layers, stored
from vit_jax.config.checks import check
from vit_jax.config.donor import Donor
from vit_jax.config.layers import FLAG, File, Layer, Tree
from vit_jax.config.schema import Config, unflatten
from vit_jax.config.suggestions import suggest_path
from vit_jax.console.workdir import open_path
from vit_jax.errors import ConfigError
from vit_jax.settings.fields import build, coerce, parse_flag
from vit_jax.settings.recorded import Setting

NAME = "model.name"


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A config, who set each of its values, and what the user should know about them."""

    config: Config
    origins: Mapping[str, str]  # by path, such as `optim.learning_rate`
    notes: tuple[str, ...] = ()


def resolve(
    file: Tree | File | None = None,
    flags: Mapping[str, str] | None = None,
    *,
    run: Layer | None = None,
) -> Resolved:
    """Merges all layers, once, and checks the result.

    Args:
      file: What `get_config` of a config file returns, any tree of settings, or their layer.
      flags: Texts by path, such as `{"optim.learning_rate": "1e-3"}`.
      run: The settings of a run that is evaluated or resumed; `init_from` is not read again.

    Raises:
      ConfigError: A field is unknown, of the wrong type or impossible, or set to what the weights
        of `init_from` were not trained with; with its full path.
      InputMissingError: `init_from` is not the folder of a run.
    """
    resolved = merge(file, flags, run=run)
    with _naming_origin(resolved.origins):
        check(resolved.config)
    return resolved


def merge(
    file: Tree | File | None = None,
    flags: Mapping[str, str] | None = None,
    *,
    run: Layer | None = None,
) -> Resolved:
    """Merges as `resolve` does; every field is of its type, and no more is checked."""
    given, texts = layers.from_file(file), dict(flags or {})
    donor = None if run else _read_donor(_text("init_from", given, texts))
    below = run or (donor.layer if donor else {})
    name = _find_name(given, below, texts)
    if donor:
        donor.check_family(name)
    stack, notes = _stack(name, given, below)
    merged = layers.merge(stack)
    own = _parse(texts, merged, name.value)
    merged = layers.merge([merged, own, {NAME: name}])
    origins = {path: setting.origin for path, setting in merged.items()}
    with _naming_origin(origins):
        config = _build({path: setting.value for path, setting in merged.items()})
    if donor is None:
        return Resolved(config, origins, notes)
    derived = donor.check(config, origins, name.origin)
    config = dataclasses.replace(config, model={**config.model, **derived})
    origins |= {f"model.{key}": donor.origin for key in derived}
    return Resolved(config, origins, (*notes, *donor.describe_overrides(config, origins)))


def read_config(directory: epath.Path) -> Config:
    """Reads the resolved config of a run from its `config.json`; runs no Python file.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
      ConfigError: A setting in it is wrong.
    """
    return resolve(run=stored.read_layer(directory)).config


def _read_donor(directory: str) -> Donor | None:
    if not directory:
        return None
    return Donor(directory, read_config(open_path(directory, "config.init_from")))


def _text(path: str, given: File, texts: Mapping[str, str]) -> str:
    """Returns a setting of text before all layers are merged."""
    value = texts.get(path, (given.defaults | given.layer)[path].value)
    if not isinstance(value, str):
        raise ConfigError(f"config.{path}", f"expected text, got {value!r}")
    return value


def _find_name(given: File, below: Layer, texts: Mapping[str, str]) -> Setting:
    """Returns the name of the model; an empty one leaves it to the weights."""
    flag = {NAME: Setting(texts[NAME], FLAG)} if NAME in texts else {}
    named = [layer[NAME] for layer in (flag, given.layer, below, given.defaults) if NAME in layer]
    if named[0].value == "" and NAME not in below:
        problem = "expected a run folder or converted weights, or a config.model.name"
        raise ConfigError("config.init_from", problem)
    name = next(setting for setting in named if setting.value != "")
    if not isinstance(name.value, str):
        raise ConfigError("config.model.name", f"expected the name of a model, got {name.value!r}")
    models.family(name.value)
    return name


def _stack(name: Setting, given: File, below: Layer) -> tuple[list[Layer], tuple[str, ...]]:
    """Returns the layers below the flags, and a note on what does not apply to the model.

    A name stands for the fields of its preset. They are the lowest layer of the model; where the
    name differs from that of a layer below the one that sets it, they also go over that layer.
    """
    preset = layers.from_preset(name.value)
    stated = {f"model.{key}" for key in models.stated_fields(name.value)}
    if NAME in below and below[NAME].value == name.value:  # perhaps with other sizes
        stated_layer = {path: below[path] for path in stated}
    else:
        stated_layer = {path: preset[path] for path in stated}
    file_name = (
        given.layer.get(NAME, Setting("", "")).value or (below or given.defaults)[NAME].value
    )
    file_layer, notes = _fields_of_family(given.layer, name, file_name)
    defaults = given.defaults
    if defaults[NAME].value != name.value or below:
        defaults = {path: s for path, s in defaults.items() if not path.startswith("model.")}
    stack = [preset, defaults, below]
    if NAME in below and below[NAME].value != name.value:
        stack.append(stated_layer)
    stack.append(file_layer)
    if file_name != name.value:
        stack.append(stated_layer)
    return stack, notes


def _fields_of_family(layer: Layer, name: Setting, file_name: Any) -> tuple[Layer, tuple[str, ...]]:
    """Returns a file's layer, without what it sets for a model of another family.

    What is no part of the architecture stays: head, regularization, dtype.
    """
    if file_name == name.value or models.family(file_name) == models.family(name.value):
        return layer, ()
    own = models.inheritance(file_name)
    kept = {key for key, how in models.inheritance(name.value).items() if how == "never"}
    dropped = {
        path
        for path in layer
        if path.startswith("model.") and path != NAME
        if path.removeprefix("model.") in own.keys() - kept
    }
    rest = {path: setting for path, setting in layer.items() if path not in dropped}
    if not dropped:
        return rest, ()
    text = ", ".join(f"{layer[path].origin} {path}" for path in sorted(dropped))
    return rest, (f"not used, for {file_name} is not a {models.family(name.value)}: {text}",)


def _parse(texts: Mapping[str, str], merged: Layer, name: str) -> Layer:
    """Returns the layer of the flags; also checks that all fields set below exist."""
    known = set(layers.known_paths(name))
    for path in [*merged, *texts]:
        if path not in known:
            raise _unknown(path, merged[path] if path in merged else texts[path], known, name)
    return {
        path: Setting(parse_flag(text, merged[path].value, f"config.{path}"), FLAG)
        for path, text in texts.items()
        if path != NAME
    }


def _unknown(path: str, value: Setting | str, known: set[str], name: str) -> ConfigError:
    """Returns the error for a setting that no field has."""
    origin, shown = (FLAG, value) if isinstance(value, str) else (value.origin, repr(value.value))
    where = f" ({origin})"
    if any(other.startswith(f"{path}.") for other in known):
        return ConfigError(f"config.{path}", f"expected a section, got {shown}{where}")
    who = f"{name} has no such field" if path.startswith("model.") else "no such field"
    return ConfigError(f"config.{path}", f"{who}; {suggest_path(path, known)}{where}")


def _build(leaves: Mapping[str, Any]) -> Config:
    """Returns the config with every field of its type."""
    tree = unflatten(leaves)
    hints = models.field_types(tree["model"]["name"])
    fields = {key: value for key, value in tree["model"].items() if key != "name"}
    typed = {key: coerce(value, hints[key], f"config.model.{key}") for key, value in fields.items()}
    return build(Config, {**tree, "model": {"name": tree["model"]["name"], **typed}}, "config")


@contextlib.contextmanager
def _naming_origin(origins: Mapping[str, str]) -> Iterator[None]:
    """Adds to an error about a field who set it."""
    try:
        yield
    except ConfigError as error:
        origin = origins.get(error.path.removeprefix("config.").partition("[")[0], layers.DEFAULT)
        if origin == layers.DEFAULT or origin.startswith("preset "):
            raise
        raise ConfigError(error.path, f"{error.problem} ({origin})") from None
