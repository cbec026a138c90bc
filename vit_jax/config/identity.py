"""What makes a run the same run: settings that may change on resuming, and all others."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax.config.data import Data
from vit_jax.config.schema import DURATIONS, Config, as_dict, flatten
from vit_jax.errors import ConfigError, suggest

# A resumed run may change these and stay the same run.
FREE_SECTIONS = ("checkpoint", "log", "mesh")
FREE_KEYS = ("data.data_dir", "data.root", "data.threads", "data.workers")
# What is there may be elsewhere by now, but it cannot come or go.
LOCATIONS = ("objective.teacher",)
# The hosts of a run may have these in different places.
HOST_KEYS = (*FREE_KEYS, *LOCATIONS, "init_from")

# What the outputs of a model depend on, beside its own section and how it sees images.
OUTPUT_KEYS = ("data.background", "objective.loss", "optim.ema_decay")

# In the fingerprint of the data, beside a key for each split field: those of `eval.sets` by name.
SETS = "sets"


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the paths that differ and that a resumed run must not change."""
    before, after = flatten(old), flatten(new)
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and key.split(".")[0] not in FREE_SECTIONS
        and key not in FREE_KEYS
        and not (key in LOCATIONS and before.get(key) and after.get(key))
    ]


def replaced_sections(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the sections with another name, and so with other fields, by path.

    Args:
      before: Settings by path.
      after: The same later.
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
    """Return the keys right below a section."""
    inside = {
        path.removeprefix(f"{section}.") for path in settings if path.startswith(f"{section}.")
    }
    return {key for key in inside if "." not in key}


def shapes_outputs(key: str) -> bool:
    """Return whether the outputs of a trained model depend on a setting."""
    section, _, name = key.partition(".")
    if section == "data":
        fields = {field.name: field.metadata for field in dataclasses.fields(Data)}
        inherit = fields[name].get("inherit", "never") if name in fields else "never"
        return inherit != "never" or key in OUTPUT_KEYS
    return section == "model" or key in OUTPUT_KEYS


def check_names(names: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return the names of settings that may differ, without `config.`.

    Args:
      names: Of keys, sections or durations.
      keys: All that there are.

    Raises:
      ConfigError: No key has such a name.
    """
    keys = list(keys)
    plain = [name.removeprefix("config.") for name in names]
    for name in plain:
        if not any(covers(name, key) for key in keys):
            problem = f"no field config.{name}; {suggest(name, [*keys, *DURATIONS])}"
            raise ConfigError("--allow_config_change", problem)
    return plain


def covers(name: str, key: str) -> bool:
    """Return whether a name means a key: the key, its section, or its duration in any unit."""
    return key == name or key.startswith(f"{name}.") or key in DURATIONS.get(name, ())


def name_to_allow(key: str) -> str:
    """Return the shortest name that covers a key: of a duration that of all units."""
    return next((name for name, keys in DURATIONS.items() if key in keys), key)


def shared_by_hosts(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same on all hosts, by the path of the field.

    Args:
      config: Of the run.
      data: The fingerprint of what each split field names, and of the `SETS`.
    """
    settings = flatten(as_dict(config))
    fixed = {key: value for key, value in settings.items() if key not in HOST_KEYS}
    return flatten({"config": {**fixed, "data": data}})
