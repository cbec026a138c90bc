"""Merge layers of settings to one frozen config in which every value keeps its origin.

resolve(file, flags): default < preset < `init_from` or run < file < flags -> typed -> checked
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from etils import epath

from vit_jax.config import layers, model_layers, stored
from vit_jax.config.checks import check
from vit_jax.config.choice_layers import origin_suffix
from vit_jax.config.init_from import SourceModel
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
    """A config, the origin of each value, and notes for the user."""

    config: Config
    origins: Mapping[str, str]  # by path, such as `optim.learning_rate`
    notes: tuple[str, ...] = ()


def resolve(
    file: Tree | File | None = None,
    flags: Mapping[str, str] | None = None,
    *,
    run: Layer | None = None,
) -> Resolved:
    """Merge all layers and check the result.

    Args:
      file: The tree that `get_config` of a config file returns, any other tree, or its layers.
      flags: Texts by path, such as `{"optim.learning_rate": "1e-3"}`.
      run: Settings of a run to evaluate or resume; `init_from` is then not read again.

    Raises:
      ConfigError: A field is unknown, has the wrong type, is out of range, or contradicts another
        field or the weights of `init_from`. The error has its full path.
      InputMissingError: `init_from` is not a run folder.
    """
    resolved = merge(file, flags, run=run)
    with _append_origin(resolved.origins):
        check(resolved.config)
    return resolved


def merge(
    file: Tree | File | None = None,
    flags: Mapping[str, str] | None = None,
    *,
    run: Layer | None = None,
) -> Resolved:
    """Merge like `resolve`, and check types and ranges, but not combinations of fields."""
    given = layers.from_file(file)
    given = dataclasses.replace(given, layer=layers.expand(given.layer, ["model"]))
    texts = layers.expand(flags or {}, ["model"])
    source = _read_source(_text_setting("init_from", given, texts)) if run is None else None
    below = source.layer if source else run or {}
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
    notes = stack.notes + _notes_on_kept_values(run or {}, merged)
    origins = {path: setting.origin for path, setting in merged.items()}
    with _append_origin(origins):
        config = _build(merged, declared)
    resolved = Resolved(config, origins, notes)
    return _fit_to(source, resolved, adapts=True) if source else resolved


def fit_to_weights(resolved: Resolved, directory: str, trained: Config) -> Resolved:
    """Check settings against the config of trained weights, and complete them from it.

    Args:
      resolved: The settings.
      directory: Folder of the weights, for messages.
      trained: The config that the weights were trained with.

    Returns:
      The settings, with a note on each value that differs from that of the weights.

    Raises:
      ConfigError: A field has another value than the weights need.
    """
    source = SourceModel(directory, trained, f"{directory}/{stored.CONFIG}")
    return _fit_to(source, resolved, adapts=False)


def _fit_to(source: SourceModel, resolved: Resolved, *, adapts: bool) -> Resolved:
    config = resolved.config
    derived = source.check(config, resolved.origins, resolved.origins[NAME], adapts=adapts)
    model = unflatten({**flatten(config.model), **derived})
    data = dataclasses.replace(config.data, **source.fit_channels(config, resolved.origins))
    config = dataclasses.replace(config, model=model, data=data)
    origins = {**resolved.origins, **{f"model.{key}": source.origin for key in derived}}
    notes = source.describe_overrides(config, origins)
    return Resolved(config, origins, (*resolved.notes, *notes))


def _notes_on_kept_values(run: Layer, merged: Layer) -> tuple[str, ...]:
    """Return a note on each value that the run keeps, although no file or flag sets it now."""
    return tuple(
        f"config.{path} keeps the value of this run: {setting.value!r} ({setting.origin})"
        for path, setting in run.items()
        if merged.get(path) is setting and layers.was_set(setting.origin)
    )


def read_config(directory: epath.Path) -> Config:
    """Read the config of a run from its `config.json`, without executing a config file.

    Args:
      directory: The work directory.

    Raises:
      InputMissingError: There is no `config.json`, or it does not hold settings.
      ConfigError: A setting in it is invalid.
    """
    return resolve(run=stored.read_layer(directory)).config


def read_named_config(directory: str, path: str) -> Config:
    """Read the config of a run that is the value of a setting; see `read_config`.

    Args:
      directory: The work directory.
      path: Path of the setting, for errors.
    """
    try:
        return read_config(open_path(directory, path))
    except InputMissingError as error:
        raise InputMissingError(f"{path}: {error}") from error


def _read_source(directory: str) -> SourceModel | None:
    if not directory:
        return None
    config = read_named_config(directory, "config.init_from")
    return SourceModel(directory, config, f"init_from {directory}")


def _text_setting(path: str, given: File, texts: Mapping[str, str]) -> str:
    """Return a setting of type text from the file and the flags, before the layers are merged."""
    value = texts.get(path, (given.defaults | given.layer)[path].value)
    if not isinstance(value, str):
        raise ConfigError(f"config.{path}", f"expected text, got {value!r}")
    return value


def _parse(texts: Mapping[str, str], declared: Mapping[str, Declared]) -> Layer:
    """Parse the texts of the flags to a layer."""
    return {
        path: Setting(parse_flag(text, declared[path].type, f"config.{path}"), FLAG)
        for path, text in texts.items()
        if path != NAME
    }


def _build(layer: Layer, declared: Mapping[str, Declared]) -> Config:
    """Build the config; check the type and the range of every field."""
    values = {
        path: coerce(layer[path].value, setting.type, f"config.{path}")
        for path, setting in declared.items()
    }
    for path, setting in declared.items():
        check_value(values[path], setting.field, f"config.{path}")
    return build(Config, unflatten(values), "config")


@contextlib.contextmanager
def _append_origin(origins: Mapping[str, str]) -> Iterator[None]:
    """Append the origin of the field to a `ConfigError`."""
    try:
        yield
    except ConfigError as error:
        path = error.path.removeprefix("config.").partition("[")[0]
        by = origin_suffix(origins.get(path, layers.DEFAULT))
        if not by:
            raise
        raise ConfigError(error.path, f"{error.problem}{by}") from None
