"""Whether a checkpoint is of the run that wants to resume from it."""

import json
from collections.abc import Mapping
from typing import Any

from vit_jax import config as config_lib
from vit_jax.config.identity import SETS, replaced_sections
from vit_jax.config.schema import DURATIONS
from vit_jax.errors import ConfigError, suggest


def check_same_run(
    saved: Mapping[str, Any], now: Mapping[str, Any], allowed: tuple[str, ...]
) -> None:
    """Check that settings and data are those that the run was started with.

    Args:
      saved: `config` and `data` of the checkpoint.
      now: Those of the run that resumes.
      allowed: Keys, sections or durations that may differ.

    Raises:
      ConfigError: Others differ, or no key has an allowed name.
    """
    saved, now = (json.loads(json.dumps(meta)) for meta in (saved, now))
    before, after = (config_lib.flatten(meta["config"]) for meta in (saved, now))
    names = [key.removeprefix("config.") for key in allowed]
    for name in names:
        if not any(config_lib.covers(name, key) for key in {**before, **after}):
            problem = f"no field config.{name}; {suggest(name, [*after, *DURATIONS])}"
            raise ConfigError("--allow_config_change", problem)
    changed = [
        key
        for key in config_lib.changed_keys(saved["config"], now["config"])
        if not any(config_lib.covers(name, key) for name in names)
    ]
    for section in replaced_sections(before, after):
        inside = [key for key in changed if key.startswith(f"{section}.")]
        if inside:  # their fields cannot be compared one by one
            changed = [section, *(key for key in changed if key not in inside)]
            before[section] = before[f"{section}.name"]
            after[section] = after[f"{section}.name"]
    if changed:
        key, *others = changed
        more = f" (and {', '.join(others)})" if others else ""
        raise ConfigError(
            f"config.{key}",
            f"this run was started with {before.get(key)!r}, not {after.get(key)!r}{more}; "
            f"use a new --workdir, or --allow_config_change={config_lib.name_to_allow(key)}",
        )
    for field, fingerprint in saved["data"].items():
        key = "eval.sets" if field == SETS else f"data.{field}"
        current = now["data"].get(field)
        if current != fingerprint and not any(config_lib.covers(name, key) for name in names):
            raise ConfigError(
                f"config.{key}",
                f"the data are not those that this run was started with: {fingerprint} then, "
                f"{current} now; --allow_config_change={key} continues all the same",
            )
