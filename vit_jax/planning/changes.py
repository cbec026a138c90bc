"""Changes of a config that need less memory, and leave its batch and its learning rate as they are.

Accumulation, `model.remat`, `model.scan` and `mesh.fsdp` compute the same update. Moments in
bfloat16 are rounded.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from vit_jax import config as config_lib
from vit_jax.models.layers.encoder import REMATS
from vit_jax.planning.batches import batch_shards
from vit_jax.training.optim import WITH_SECOND_MOMENT

Change = Mapping[str, Any]  # the settings that differ from the config, by path
T = TypeVar("T")

# Numbers of micro-batches that are tried at most.
_MOST_ACCUM_STEPS = 3


def apply(node: T, change: Change) -> T:
    """Return a config, or a section of it, with changed settings."""
    for path, value in change.items():
        key, _, rest = path.partition(".")
        inner = node[key] if isinstance(node, Mapping) else getattr(node, key)
        new = apply(inner, {rest: value}) if rest else value
        if isinstance(node, Mapping):
            node = {**node, key: new}  # type: ignore[assignment]
        else:
            node = dataclasses.replace(node, **{key: new})  # type: ignore[type-var]
    return node


def find_changes(
    config: config_lib.Config, num_devices: int, largest: int
) -> dict[str, list[Change]]:
    """Return changes that may make the config's batch fit, by kind.

    The changes of a kind are alternatives, of which the first costs least.

    Args:
      config: The config, whose batch does not fit.
      num_devices: The number of devices.
      largest: The largest batch that fits; 0 if none does.
    """
    kinds: dict[str, list[Change]] = {
        "accumulation": _more_accum_steps(config, batch_shards(config.mesh, num_devices), largest),
        "remat": _more_remat(config),
        "scan": [] if config.model["scan"] else [{"model.scan": True}],
        "fsdp": _fsdp(config, num_devices),
        "moments": _smaller_moments(config.optim),
    }
    return {kind: changes for kind, changes in kinds.items() if changes}


def combine(kinds: Mapping[str, Sequence[Change]]) -> Change:
    """Return the changes of all kinds at once, of each kind the one that saves most."""
    return {path: value for changes in kinds.values() for path, value in changes[-1].items()}


def _more_accum_steps(config: config_lib.Config, shards: int, largest: int) -> list[Change]:
    """Return numbers of micro-batches that are at most as large as those of the largest batch."""
    now = config.optim.accum_steps
    rows = config.batch_size // shards
    fitting = max(largest // now, shards)  # rows of a micro-batch on all devices
    steps = [
        steps
        for steps in range(now + 1, rows + 1)
        if rows % steps == 0 and config.batch_size <= steps * fitting
    ]
    return [{"optim.accum_steps": n} for n in steps[:_MOST_ACCUM_STEPS]]


def _more_remat(config: config_lib.Config) -> list[Change]:
    levels = list(REMATS)
    return [{"model.remat": name} for name in levels[levels.index(config.model["remat"]) + 1 :]]


def _fsdp(config: config_lib.Config, num_devices: int) -> list[Change]:
    """Return the change that shards the state over the devices that hold copies of it."""
    shards = batch_shards(config.mesh, num_devices)
    fsdp = math.gcd(shards, config.model["width"])
    if config.mesh.fsdp in (fsdp, -1):
        return []
    return [{"mesh.data": shards // fsdp, "mesh.fsdp": fsdp}]


def _smaller_moments(optim: config_lib.Optim) -> list[Change]:
    paths = ["moment_dtype"]
    if optim.name in WITH_SECOND_MOMENT:
        paths.append("second_moment_dtype")
    change = {f"optim.{p}": "bfloat16" for p in paths if getattr(optim, p) != "bfloat16"}
    return [change] if change else []
