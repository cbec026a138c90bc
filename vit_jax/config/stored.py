"""The settings in the folder of a run: `config.json` and `origins.json`."""

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
EXPECTED = "the work directory of a run, or converted weights"
# In `config.json` of transformers and of timm, and never in that of a run.
FOREIGN_KEYS = ("architecture", "architectures", "model_type", "pretrained_cfg")
ORIGINS = "origins.json"  # the origin of each value; not part of the identity of the run
# Settings with a path that may be on another machine, such as gs://...
REMOTE_KEYS = ("data.data_dir", "data.root", "init_from", "objective.teacher")


def read_layer(directory: epath.Path) -> Layer:
    """Read the settings of a run; their origin is its `config.json`.

    Raises:
      InputMissingError: There is no `config.json`, or it does not hold settings.
    """
    path = directory / CONFIG
    if not is_regular(path):
        raise InputMissingError(f"{path}: no such file; expected {EXPECTED}")
    try:
        values = read_json(path)
    except ValueError as error:
        raise InputMissingError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise InputMissingError(f"{path}: expected the settings of a run, got {values!r:.40}")
    if not values.keys().isdisjoint(FOREIGN_KEYS):
        problem = "expected the settings of a run, got those of another library"
        hint = "import the weights with python -m vit_jax.convert"
        raise InputMissingError(f"{path}: {problem}; {hint}")
    return from_values(values, str(path))


def read_layer_to_resume(directory: epath.Path) -> Layer:
    """Read the settings of a run to resume, with their origins in that run and without the mesh.

    Raises:
      InputMissingError: There is no `config.json`, or it does not hold settings.
    """
    origins = _read_origins(directory / ORIGINS)
    return {
        path: Setting(setting.value, origins.get(path, setting.origin))
        for path, setting in without_mesh(read_layer(directory)).items()
    }


def check_places(config: Config, run: Layer, named: Collection[str]) -> None:
    """Check that no remote path comes from the `config.json` of a run alone.

    A run folder may come from someone else; it must not make this process read from the network.

    Args:
      config: The merged config.
      run: The layer of the `config.json`.
      named: Paths of the settings that the config file or the flags set.

    Raises:
      ConfigError: Only the run sets a remote path.
    """
    values = flatten(as_dict(config))
    for path in REMOTE_KEYS:
        value = values.get(path) or ""
        if "://" in value and path in run and path not in named:
            problem = f"{value} is on another machine, and only the run's {CONFIG} names it"
            raise ConfigError(f"config.{path}", f"{problem}; allow it: --config.{path}={value}")


def without_mesh(layer: Layer) -> Layer:
    """Return the settings of a run without its mesh, because the devices may differ now."""
    return {path: setting for path, setting in layer.items() if not path.startswith("mesh.")}


def write(directory: epath.Path, config: Config, origins: Mapping[str, str]) -> None:
    """Write the settings of a run and their origins; call it on the first process only."""
    write_json(directory / CONFIG, as_dict(config))
    write_json(directory / ORIGINS, origins)


def _read_origins(path: epath.Path) -> dict[str, Any]:
    """Return origins by path; they are only informative, so that invalid ones are ignored."""
    try:
        origins = read_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(origins, dict):
        return {}
    return {key: text for key, text in origins.items() if isinstance(text, str)}
