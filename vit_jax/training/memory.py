"""Device memory: a check before anything is allocated, and advice when it runs out."""

import math
import os
from collections.abc import Iterator
from typing import Any

import jax

from vit_jax.cluster import sharding
from vit_jax.errors import ConfigError
from vit_jax.training.run import Run

# What keeps fewer activations than a value of `model.remat`, and costs the least time.
LESS_KEPT = {"none": "linear", "linear": "attention", "attention": "block"}


def check_memory(run: Run) -> None:
    """Check that a device can hold its shard of the state and its shard of a batch.

    The pixels of a batch are counted in float32. Activations and gradients are not counted, so a
    run that passes the check may still run out of memory.

    Raises:
      ConfigError: The state, its copy in a save, or a batch is larger than the memory of a device.
    """
    config = run.config
    device = run.mesh.local_devices[0]
    memory = memory_of(device)
    pixels = 4 * math.prod(config.data.image_shape)
    num_shards = sharding.batch_divisor(run.mesh)
    state = bytes_per_device(run.shapes)
    saved = state + bytes_per_device(_stacked(run))
    needs = {
        "config.model": ("parameters and optimizer state take", state),
        "config.model.scan": ("to save the state, with its blocks twice, takes", saved),
        "config.batch_size": ("a batch takes", config.batch_size * pixels // num_shards),
        "config.eval.batch_size": ("a batch takes", config.eval.batch_size * pixels // num_shards),
    }
    for path, (what, need) in needs.items():
        if need > memory:
            limit = f"more than the {_to_gib(memory)} of {device.device_kind}"
            raise ConfigError(path, f"{what} {_to_gib(need)} per device, {limit}")


def advise(run: Run) -> str:
    """Return what to do if a run needs more memory than a device has."""
    plan = "`python -m vit_jax.plan` with the same --config flags and --search finds a fit"
    flags = list(_savings(run))
    return f"try {', '.join(flags)}; {plan}" if flags else plan


def _savings(run: Run) -> Iterator[str]:
    """Yield flags that save memory and are not used yet, the most useful first."""
    config = run.config
    model, mesh, accum_steps = config.model, config.mesh, config.optim.accum_steps
    shards = sharding.batch_divisor(run.mesh)
    rows = config.batch_size // shards  # of a device
    if less := LESS_KEPT.get(model["remat"]):
        yield f"--config.model.remat={less}"
    elif not model["scan"]:
        yield "--config.model.scan=true"
    if rows % (2 * accum_steps) == 0:
        yield f"--config.optim.accum_steps={2 * accum_steps}"
    fsdp = math.gcd(shards, model["width"])
    if fsdp > 1 and run.mesh.shape["fsdp"] == 1 and mesh.data == -1:
        yield f"--config.mesh.fsdp={fsdp}"
    if fewer := rows // 2 // accum_steps * accum_steps:
        yield f"--config.batch_size={fewer * shards}"


def _stacked(run: Run) -> list[Any]:
    """Return the shapes of the arrays in stacks, which a save copies; see `stacked_state`."""
    leaves = jax.tree_util.tree_leaves_with_path(run.shapes)
    return [
        leaf
        for path, leaf in leaves
        if any(getattr(key, "key", None) in run.stacks for key in path)
    ]


def bytes_per_device(shapes: Any) -> int:
    """Return the size of one device's shard of arrays in bytes."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


def memory_of(device: jax.Device) -> int:
    """Return the memory of a device in bytes; for a CPU, the memory of the machine."""
    stats = device.memory_stats() or {}
    return int(stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _to_gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
