"""The identity of a run: which settings may change when it resumes, and which may not."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax.config.data import Data
from vit_jax.config.schema import DURATIONS, Config, as_dict, flatten
from vit_jax.errors import ConfigError, suggest

# Sections and keys that may change when a run resumes.
FREE_SECTIONS = ("checkpoint", "log", "mesh")
FREE_KEYS = ("data.data_dir", "data.root", "data.threads", "data.workers")
# Paths that may change to another path, but neither from nor to an empty one.
LOCATIONS = ("objective.teacher",)
# Settings of how a model is computed, by path, and the values that give the same function up to
# rounding: all if there are none. None: the part has no such setting.
SAME_FUNCTION: dict[str, tuple[Any, ...]] = {
    "model.attention.dropout": (0.0, None),
    "model.attention.kernel": (),
    "model.attention.name": ("auto", "full", "fused"),
    "model.remat": (),
    "model.scan": (),
}
# Keys that may differ between the hosts of a run.
HOST_KEYS = (*FREE_KEYS, *LOCATIONS, "init_from")

# Keys that affect the outputs of a model, in addition to its own section and the preprocessing.
OUTPUT_KEYS = ("data.background", "objective.loss", "optim.ema_decay")

# Key of `eval.sets`, by name, in the fingerprint of the data; the other keys are the split fields.
SETS = "sets"


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the paths of settings that differ and must not change when a run resumes.

    Args:
      old: The config of the run, as dictionaries.
      new: The config to resume with.
    """
    before, after = flatten(old), flatten(new)
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and key.split(".")[0] not in FREE_SECTIONS
        and key not in FREE_KEYS
        and not is_same_function(key, before.get(key), after.get(key))
        and not (key in LOCATIONS and before.get(key) and after.get(key))
    ]


def is_same_function(key: str, old: Any, new: Any) -> bool:
    """Return whether a model computes the same function with either value of a setting."""
    values = SAME_FUNCTION.get(key, (old,))
    return old == new or not values or (old in values and new in values)


def replaced_sections(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the paths of sections whose name changed, and with it their fields.

    Args:
      before: Old settings by path.
      after: New settings by path.
    """
    suffix = ".name"
    sections = [p.removesuffix(suffix) for p in before.keys() & after.keys() if p.endswith(suffix)]
    return sorted(
        section
        for section in sections
        if before[section + suffix] != after[section + suffix]
        and _own_keys(section, before) != _own_keys(section, after)
    )


def _own_keys(section: str, settings: Mapping[str, Any]) -> set[str]:
    """Return the keys of a section, without those of its subsections."""
    inside = {
        path.removeprefix(f"{section}.") for path in settings if path.startswith(f"{section}.")
    }
    return {key for key in inside if "." not in key}


def shapes_outputs(key: str) -> bool:
    """Return whether the outputs of a trained model depend on the setting with this path."""
    section, _, name = key.partition(".")
    if section == "data":
        fields = {field.name: field.metadata for field in dataclasses.fields(Data)}
        inherit = fields[name].get("inherit", "never") if name in fields else "never"
        return inherit != "never" or key in OUTPUT_KEYS
    return section == "model" or key in OUTPUT_KEYS


def changed_outputs(run: Config, used: Config) -> dict[str, Any]:
    """Return the settings by path with which a run is evaluated, where results depend on them.

    They are those that shape the outputs, and the data set, if the run names one.

    Args:
      run: The config of the run.
      used: The config of the evaluation.
    """
    before, after = flatten(as_dict(run)), flatten(as_dict(used))
    return {
        key: after[key]
        for key in sorted(after)
        if before.get(key) != after[key]
        and (shapes_outputs(key) or (key in ("data.name", "data.root") and before.get(key)))
        and not is_same_function(key, before.get(key), after[key])
    }


def check_names(names: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Check the names that are passed to `--allow_config_change`.

    Args:
      names: Names of keys, sections or durations, with or without `config.`.
      keys: All keys.

    Returns:
      The names without `config.`.

    Raises:
      ConfigError: A name does not cover any key.
    """
    keys = list(keys)
    plain = [name.removeprefix("config.") for name in names]
    for name in plain:
        if not any(covers(name, key) for key in keys):
            problem = f"no field config.{name}; {suggest(name, [*keys, *DURATIONS])}"
            raise ConfigError("--allow_config_change", problem)
    return plain


def covers(name: str, key: str) -> bool:
    """Return whether a name is the key itself, its section, or its duration without the unit."""
    return key == name or key.startswith(f"{name}.") or key in DURATIONS.get(name, ())


def name_to_allow(key: str) -> str:
    """Return the name that allows a key to change: for a duration, the name without the unit."""
    return next((name for name, keys in DURATIONS.items() if key in keys), key)


def shared_by_hosts(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings and data fingerprints that must be equal on all hosts, by path.

    Args:
      config: The config of the run.
      data: Fingerprint of the data of each split field and of the `SETS`.
    """
    settings = flatten(as_dict(config))
    shared = {key: value for key, value in settings.items() if key not in HOST_KEYS}
    return flatten({"config": {**shared, "data": data}})
