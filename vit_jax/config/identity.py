"""What makes a run the same run: settings that may change on resuming, and all others."""

from collections.abc import Mapping
from typing import Any

from vit_jax.config.schema import DURATIONS, Config, as_dict, flatten

# A resumed run may change these and stay the same run.
FREE_SECTIONS = ("checkpoint", "log", "mesh")
FREE_KEYS = ("data.data_dir", "data.root", "data.threads", "data.workers")
# What is there may be elsewhere by now, but it cannot come or go.
LOCATIONS = ("objective.teacher",)
# The hosts of a run may have these in different places.
HOST_KEYS = (*FREE_KEYS, *LOCATIONS, "init_from")

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
