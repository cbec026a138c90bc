"""The settings in the folder of a run: `config.json`, and beside it who set each value."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.config.layers import Layer, from_values
from vit_jax.config.schema import Config, as_dict
from vit_jax.console.workdir import write_json
from vit_jax.errors import InputMissingError
from vit_jax.settings.recorded import Setting

CONFIG = "config.json"
ORIGINS = "origins.json"  # no part of the run's identity


def read_layer(directory: epath.Path) -> Layer:
    """Read the settings of a run; their origin is its `config.json`.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise InputMissingError(f"{path}: no such file; expected the work directory of a run")
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputMissingError(f"{path}: not valid JSON ({error})") from error
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
        origins = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(origins, dict):
        return {}
    return {key: text for key, text in origins.items() if isinstance(text, str)}
