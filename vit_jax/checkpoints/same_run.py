"""Whether a checkpoint is of the run that wants to resume from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.config.identity import SETS, check_names, replaced_sections
from vit_jax.config.schema import unflatten
from vit_jax.errors import ConfigError, UserError


def check_same_run(
    saved: Mapping[str, Any], now: Mapping[str, Any], allowed: tuple[str, ...]
) -> None:
    """Check that settings and data are those that the run was started with.

    Args:
      saved: `config` and `data` of the checkpoint.
      now: Those of the run that resumes.
      allowed: Keys, sections or durations that may differ.

    Raises:
      ConfigError: Others differ, no key has an allowed name, or the model has other parameters.
    """
    saved, now = (json.loads(json.dumps(meta)) for meta in (saved, now))
    before, after = (config_lib.flatten(meta["config"]) for meta in (saved, now))
    names = check_names(allowed, {**before, **after})
    every = config_lib.changed_keys(saved["config"], now["config"])
    _check_same_parameters(before, after, [key for key in every if _shapes_parameters(key)])
    changed = [key for key in every if not any(config_lib.covers(name, key) for name in names)]
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


def _shapes_parameters(key: str) -> bool:
    return key.startswith("model.") or key in ("data.image_size", "data.channels")


def _check_same_parameters(
    before: Mapping[str, Any], after: Mapping[str, Any], changed: Sequence[str]
) -> None:
    """Check that changes leave the names and the shapes of all parameters as they are.

    No flag allows others: the checkpoint is of another model.

    Args:
      before: Settings by path.
      after: The same now.
      changed: The paths that differ and that parameters may depend on.

    Raises:
      ConfigError: They do not.
    """
    if not changed:
        return
    expected = _variables(before)
    if _variables(after) == expected:
        return
    # The first that makes another model by itself, or all where they only do so together.
    alone = (key for key in changed if _variables({**before, key: after.get(key)}) != expected)
    key = next(alone, changed[0])
    others = [other for other in changed if other != key]
    more = f" (and {', '.join(others)})" if others else ""
    raise ConfigError(
        f"config.{key}",
        f"this run was started with {before.get(key)!r}, not {after.get(key)!r}{more}; its "
        "checkpoints have the parameters of that model: use a new --workdir, with "
        "--config.init_from to start from them",
    )


def _variables(settings: Mapping[str, Any]) -> Any:
    """Return names and shapes of all variables of a model, or None where there is none such."""
    config = unflatten(settings)
    try:
        image_shape = (*config["data"]["image_size"], config["data"]["channels"])
        tree = models.abstract_variables(models.create(**config["model"]), image_shape)
    except (UserError, ValueError, TypeError, KeyError):
        return None
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
