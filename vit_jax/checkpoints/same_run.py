"""Checks that a checkpoint belongs to the run that resumes from it."""

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
      now: `config` and `data` of the resumed run.
      allowed: Keys, sections or durations that may differ.

    Raises:
      ConfigError: Other keys differ, an allowed name is unknown, or the model has other parameters.
    """
    saved, now = (json.loads(json.dumps(meta)) for meta in (saved, now))
    before, after = (config_lib.flatten(meta["config"]) for meta in (saved, now))
    names = check_names(allowed, {**before, **after})
    every = config_lib.changed_keys(saved["config"], now["config"])
    _check_same_parameters(before, after, [key for key in every if _shapes_parameters(key)])
    changed = [key for key in every if not any(config_lib.covers(name, key) for name in names)]
    for section in replaced_sections(before, after):
        inside = [key for key in changed if key.startswith(f"{section}.")]
        if inside:  # sections with other fields are compared as a whole
            changed = [section, *(key for key in changed if key not in inside)]
            before[section] = before[f"{section}.name"]
            after[section] = after[f"{section}.name"]
    if changed:
        key, *others = changed
        more = f" (and {', '.join(others)})" if others else ""
        to_allow = dict.fromkeys(config_lib.name_to_allow(key) for key in changed)
        raise ConfigError(
            f"config.{key}",
            f"this run was started with {before.get(key)!r}, not {after.get(key)!r}{more}; "
            f"use a new --workdir, or {' '.join(f'--allow_config_change={k}' for k in to_allow)}",
        )
    for field, fingerprint in saved["data"].items():
        key = "eval.sets" if field == SETS else f"data.{field}"
        current = now["data"].get(field)
        if current != fingerprint and not any(config_lib.covers(name, key) for name in names):
            raise ConfigError(
                f"config.{key}",
                f"this run was started with other data: {fingerprint} then, {current} now; "
                f"to resume with the new data, pass --allow_config_change={key}",
            )


def _shapes_parameters(key: str) -> bool:
    return key.startswith("model.") or key in ("data.image_size", "data.channels")


def _check_same_parameters(
    before: Mapping[str, Any], after: Mapping[str, Any], changed: Sequence[str]
) -> None:
    """Check that the names and shapes of all parameters stay the same.

    No flag allows other parameters, because the checkpoint cannot be restored into them.

    Args:
      before: Settings of the checkpoint, by path.
      after: Settings of the resumed run, by path.
      changed: Paths of the changed settings that parameters may depend on.

    Raises:
      ConfigError: Names or shapes differ.
    """
    if not changed or has_same_parameters(before, after):
        return
    expected = _variables(before)
    # Name the first change that alone gives other parameters; several may do so only together.
    alone = (key for key in changed if _variables({**before, key: after.get(key)}) != expected)
    key = next(alone, changed[0])
    others = [other for other in changed if other != key]
    more = f" (and {', '.join(others)})" if others else ""
    raise ConfigError(
        f"config.{key}",
        f"this run was started with {before.get(key)!r}, not {after.get(key)!r}{more}; the model "
        "would have other parameters than the checkpoint: use a new --workdir",
    )


def has_same_parameters(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether the models of two configs have parameters of the same names and shapes.

    Args:
      before: Settings by path.
      after: Other settings by path.
    """
    return bool(_variables(before) == _variables(after))


def _variables(settings: Mapping[str, Any]) -> Any:
    """Return names and shapes of all variables of a model, or None for an invalid model."""
    config = unflatten(settings)
    try:
        image_shape = (*config["data"]["image_size"], config["data"]["channels"])
        tree = models.abstract_variables(models.create(**config["model"]), image_shape)
    except (UserError, ValueError, TypeError, KeyError):
        return None
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
