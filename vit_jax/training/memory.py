"""A check that a run fits into device memory, before anything is allocated."""

import math
import os
from typing import Any

import jax

from vit_jax.cluster import sharding
from vit_jax.errors import ConfigError
from vit_jax.training.run import Run


def check_memory(run: Run) -> None:
    """Check that a device can hold its shard of the state and its shard of a batch.

    The pixels of a batch are counted in float32. Activations and gradients are not counted, so a
    run that passes the check may still run out of memory.

    Raises:
      ConfigError: The state or a batch is larger than the memory of a device.
    """
    config = run.config
    device = run.mesh.local_devices[0]
    memory = memory_of(device)
    pixels = 4 * math.prod(config.data.image_shape)
    num_shards = sharding.batch_divisor(run.mesh)
    needs = {
        "config.model": (
            "parameters and optimizer state take",
            state_bytes_per_device(run.shapes),
        ),
        "config.batch_size": ("a batch takes", config.batch_size * pixels // num_shards),
        "config.eval.batch_size": ("a batch takes", config.eval.batch_size * pixels // num_shards),
    }
    for path, (what, need) in needs.items():
        if need > memory:
            limit = f"more than the {_to_gib(memory)} of {device.device_kind}"
            raise ConfigError(path, f"{what} {_to_gib(need)} per device, {limit}")


def state_bytes_per_device(shapes: Any) -> int:
    """Return the size of one device's shard of the state in bytes."""
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
