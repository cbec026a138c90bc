"""From layers of settings to one frozen config, of which every value keeps its origin.

resolve(file, flags): default < preset < donor | run < file < flags -> typed -> checked
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from etils import epath

from vit_jax.config import layers, model_layers, stored
from vit_jax.config.checks import check
from vit_jax.config.choice_layers import where
from vit_jax.config.donor import Donor
from vit_jax.config.layers import FLAG, NAME, File, Layer, Tree
from vit_jax.config.schema import Config, flatten, unflatten
from vit_jax.config.unknown import check_known
from vit_jax.console.workdir import open_path
from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.settings.choices import Declared
from vit_jax.settings.fields import build, check_value, coerce, parse_flag
from vit_jax.settings.recorded import Setting


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
    """Merge all layers, once, and check the result.

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
    """Merge as `resolve` does; every field is of its type, and no more is checked."""
    given = layers.from_file(file)
    given = dataclasses.replace(given, layer=layers.expand(given.layer, ["model"]))
    texts = layers.expand(flags or {}, ["model"])
    donor = _read_donor(_text("init_from", given, texts)) if run is None else None
    below = donor.layer if donor else run or {}
    name = model_layers.find_name(given, below, texts)
    if NAME in below:
        model_layers.check_family(name, below[NAME])
    sections = layers.named_sections(name.value)
    given = dataclasses.replace(given, layer=layers.expand(given.layer, sections))
    texts = layers.expand(texts, sections)
    stack = model_layers.stack(name, given, below, texts)
    merged = layers.merge(stack.layers)
    declared = layers.declarations(name.value, {k: s.value for k, s in stack.chosen.items()})
    check_known({**texts, **merged}, declared, name.value, stack.chosen)
    merged = layers.merge([merged, _parse(texts, declared), {NAME: name}])
    notes = stack.notes + _kept_from(run or {}, merged)
    origins = {path: setting.origin for path, setting in merged.items()}
    with _naming_origin(origins):
        config = _build(merged, declared)
    resolved = Resolved(config, origins, notes)
    return _fit_to(donor, resolved, adapts=True) if donor else resolved


def fit_to_weights(resolved: Resolved, directory: str, trained: Config) -> Resolved:
    """Return settings that suit weights, with a note on each one that is not theirs.

    Args:
      resolved: The settings.
      directory: Where the weights are, for messages.
      trained: The config that they were trained with.

    Raises:
      ConfigError: A field is set to what the weights were not trained with.
    """
    return _fit_to(Donor(directory, trained), resolved, adapts=False)


def _fit_to(donor: Donor, resolved: Resolved, *, adapts: bool) -> Resolved:
    config = resolved.config
    derived = donor.check(config, resolved.origins, resolved.origins[NAME], adapts=adapts)
    model = unflatten({**flatten(config.model), **derived})
    data = dataclasses.replace(config.data, **donor.fit_channels(config, resolved.origins))
    config = dataclasses.replace(config, model=model, data=data)
    origins = {**resolved.origins, **{f"model.{key}": donor.origin for key in derived}}
    notes = donor.describe_overrides(config, origins)
    return Resolved(config, origins, (*resolved.notes, *notes))


def _kept_from(run: Layer, merged: Layer) -> tuple[str, ...]:
    """Return a note on each value that was set when a run was started, and is not set now."""
    return tuple(
        f"config.{path} stays {setting.value!r}, as this run was started ({setting.origin})"
        for path, setting in run.items()
        if merged.get(path) is setting and layers.was_set(setting.origin)
    )


def read_config(directory: epath.Path) -> Config:
    """Read the resolved config of a run from its `config.json`; run no Python file.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
      ConfigError: A setting in it is wrong.
    """
    return resolve(run=stored.read_layer(directory)).config


def read_named_config(directory: str, path: str) -> Config:
    """Read the config of a run that a setting names; see `read_config`.

    Args:
      directory: Of the run.
      path: Of the setting, for errors.
    """
    try:
        return read_config(open_path(directory, path))
    except InputMissingError as error:
        raise InputMissingError(f"{path}: {error}") from error


def _read_donor(directory: str) -> Donor | None:
    if not directory:
        return None
    return Donor(directory, read_named_config(directory, "config.init_from"))


def _text(path: str, given: File, texts: Mapping[str, str]) -> str:
    """Return a setting of text before all layers are merged."""
    value = texts.get(path, (given.defaults | given.layer)[path].value)
    if not isinstance(value, str):
        raise ConfigError(f"config.{path}", f"expected text, got {value!r}")
    return value


def _parse(texts: Mapping[str, str], declared: Mapping[str, Declared]) -> Layer:
    """Return the layer of the flags."""
    return {
        path: Setting(parse_flag(text, declared[path].type, f"config.{path}"), FLAG)
        for path, text in texts.items()
        if path != NAME
    }


def _build(layer: Layer, declared: Mapping[str, Declared]) -> Config:
    """Return the config with every field of its type, and in its range."""
    values = {
        path: coerce(layer[path].value, setting.type, f"config.{path}")
        for path, setting in declared.items()
    }
    for path, setting in declared.items():
        check_value(values[path], setting.field, f"config.{path}")
    return build(Config, unflatten(values), "config")


@contextlib.contextmanager
def _naming_origin(origins: Mapping[str, str]) -> Iterator[None]:
    """Add to an error about a field who set it."""
    try:
        yield
    except ConfigError as error:
        path = error.path.removeprefix("config.").partition("[")[0]
        by = where(origins.get(path, layers.DEFAULT))
        if not by:
            raise
        raise ConfigError(error.path, f"{error.problem}{by}") from None
