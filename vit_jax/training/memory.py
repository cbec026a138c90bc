"""Whether a run fits into memory at all, asked before any of it is taken."""

import math
import os
from typing import Any

import jax

from vit_jax.cluster import sharding
from vit_jax.errors import ConfigError
from vit_jax.training.run import Run


def check_memory(run: Run) -> None:
    """Check that a device can hold its share of the state, and of a batch of float32 pixels.

    What a step needs besides is not counted: what passes may still be too large.

    Raises:
      ConfigError: It cannot.
    """
    config = run.config
    device = run.mesh.local_devices[0]
    memory = _memory_of(device)
    pixels = 4 * math.prod(config.data.image_shape)
    shares = sharding.batch_divisor(run.mesh)
    needs = {
        "config.model": ("parameters and moments take", _state_bytes(run.shapes)),
        "config.batch_size": ("a batch takes", config.batch_size * pixels // shares),
        "config.eval.batch_size": ("a batch takes", config.eval.batch_size * pixels // shares),
    }
    for path, (what, need) in needs.items():
        if need > memory:
            has = f"{device.device_kind} has {_format(memory)}"
            raise ConfigError(path, f"{what} {_format(need)} on each device, and {has}")


def _state_bytes(shapes: Any) -> int:
    """Return the bytes of a state on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


def _memory_of(device: jax.Device) -> int:
    """Return the bytes of memory of a device; of a CPU those of the machine."""
    stats = device.memory_stats() or {}
    return int(stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _format(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
