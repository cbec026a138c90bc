"""The settings in the folder of a run: `config.json`, and beside it who set each value."""

from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from vit_jax.config.layers import Layer, from_values
from vit_jax.config.schema import Config, as_dict, flatten
from vit_jax.console.documents import is_regular, read_json
from vit_jax.console.workdir import write_json
from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.settings.recorded import Setting

CONFIG = "config.json"
ORIGINS = "origins.json"  # no part of the run's identity
# The settings that name a place to read from, which may be on another machine.
REMOTE_KEYS = ("data.data_dir", "data.root", "init_from", "objective.teacher")


def read_layer(directory: epath.Path) -> Layer:
    """Read the settings of a run; their origin is its `config.json`.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
    """
    path = directory / CONFIG
    if not is_regular(path):
        raise InputMissingError(f"{path}: no such file; expected the work directory of a run")
    try:
        values = read_json(path)
    except ValueError as error:
        raise InputMissingError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise InputMissingError(f"{path}: expected the settings of a run, got {values!r:.40}")
    return from_values(values, str(path))


def read_layer_to_resume(directory: epath.Path) -> Layer:
    """Read the settings of a run, with the origins that they had in it, for whatever devices.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
    """
    origins = _read_origins(directory / ORIGINS)
    return {
        path: Setting(setting.value, origins.get(path, setting.origin))
        for path, setting in without_mesh(read_layer(directory)).items()
    }


def check_places(config: Config, run: Layer, named: Collection[str]) -> None:
    """Check that nothing is fetched from another machine because the folder of a run says so.

    Args:
      config: The merged config.
      run: The layer of the run's `config.json`.
      named: The paths that the user sets, in a file or by flags.

    Raises:
      ConfigError: A place on another machine is named by the run alone.
    """
    values = flatten(as_dict(config))
    for path in REMOTE_KEYS:
        value = values.get(path) or ""
        if "://" in value and path in run and path not in named:
            problem = f"{value} is on another machine, and only the run's {CONFIG} names it"
            raise ConfigError(f"config.{path}", f"{problem}; to read it: --config.{path}={value}")


def without_mesh(layer: Layer) -> Layer:
    """Return the settings of a run but for its mesh: the devices may be others today."""
    return {path: setting for path, setting in layer.items() if not path.startswith("mesh.")}


def write(directory: epath.Path, config: Config, origins: Mapping[str, str]) -> None:
    """Write the settings of a run and their origins; only the first process does."""
    write_json(directory / CONFIG, as_dict(config))
    write_json(directory / ORIGINS, origins)


def _read_origins(path: epath.Path) -> dict[str, Any]:
    """Return origins by path; nothing depends on them, so damaged ones are left out."""
    try:
        origins = read_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(origins, dict):
        return {}
    return {key: text for key, text in origins.items() if isinstance(text, str)}
