"""The device mesh, and how named dimensions are sharded over it.

Models name the dimensions of their parameters and activations; `RULES` gives the mesh axis over
which each name is sharded. The axes are `data` (the batch), `fsdp` (the batch, and the width of
parameters) and `tensor` (heads and the hidden units of feed-forward networks).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vit_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    # Parameters.
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("qkv", None),
    ("kv", None),
    ("classes", None),
    # Activations.
    ("batch", BATCH_AXES),
    ("tokens", None),
    ("channels", None),
)


def make_mesh(
    sizes: Sequence[int] = (-1, 1, 1), devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Return a mesh of the devices.

    The order of the devices is JAX's, which is best for the network, if every host then holds one
    contiguous block of the rows of a batch; otherwise the devices are ordered by host.

    Args:
      sizes: Number of devices along each of `AXES`; one may be -1, for the remaining devices.
      devices: The devices; all devices by default.

    Raises:
      ConfigError: The product of the sizes is not the number of devices, or the tensor axis does
        not fit the hosts.
    """
    devices = jax.devices() if devices is None else devices
    requested = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    sizes = list(sizes)
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = len(devices) // rest
    if math.prod(sizes) != len(devices):
        problem = f"{requested} does not fit {len(devices)} devices"
        hint = f"the product of all axes must be {len(devices)}, and -1 is the rest"
        raise ConfigError("config.mesh", f"{problem}; {hint}")
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    mesh = jax.make_mesh(tuple(sizes), AXES, axis_types=auto, devices=devices)
    if not shards_by_process(_processes(mesh)):
        ordered = sorted(devices, key=lambda device: (_process_of(device), device.id))
        mesh = jax.sharding.Mesh(np.array(ordered).reshape(sizes), AXES, axis_types=auto)
    if not shards_by_process(_processes(mesh)):
        on_one = len(devices) // len({_process_of(device) for device in devices})
        problem = f"expected a divisor or a multiple of the {on_one} devices of a host"
        raise ConfigError("config.mesh.tensor", f"{problem}, got {sizes[AXES.index('tensor')]}")
    return mesh


def batch_shard(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """Return the index of the block of a batch that this host holds, and the number of blocks.

    Hosts that share a tensor axis hold the same block.
    """
    return shards_by_process(_processes(mesh))[jax.process_index()]


def shards_by_process(processes: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return the block of batch rows of each process: its index, and the number of blocks.

    The result is empty if the processes do not hold contiguous blocks of equal size.

    Args:
      processes: The process index of each device of a mesh, (data, fsdp, tensor).
    """
    rows = processes.reshape(-1, processes.shape[-1])  # data and fsdp; tensor
    blocks = {}
    for process in np.unique(processes).tolist():
        held = np.flatnonzero((rows == process).any(axis=1))
        size = len(held)
        if len(rows) % size or held[0] % size or held[-1] - held[0] != size - 1:
            return {}
        blocks[process] = int(held[0]) // size, len(rows) // size
    return blocks if len({count for _, count in blocks.values()}) == 1 else {}


def _processes(mesh: jax.sharding.Mesh) -> np.ndarray:
    return np.vectorize(_process_of, otypes=[int])(mesh.devices)


def _process_of(device: jax.Device) -> int:
    return device.process_index


def batch_divisor(mesh: jax.sharding.Mesh) -> int:
    """Return the number of shards of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def round_up(batch_size: int, mesh: jax.sharding.Mesh) -> int:
    """Return the batch size, rounded up to a multiple of the number of shards."""
    divisor = batch_divisor(mesh)
    return math.ceil(batch_size / divisor) * divisor


def check_batch_size(
    batch_size: int, path: str, mesh: jax.sharding.Mesh, accum_steps: int = 1
) -> None:
    """Check that the batch can be sharded over the devices.

    Args:
      batch_size: The global batch size.
      path: The config field, for the error.
      mesh: The device mesh.
      accum_steps: Number of micro-batches per step.

    Raises:
      ConfigError: It cannot; the error names the nearest sizes that fit.
    """
    unit = batch_divisor(mesh) * accum_steps
    if batch_size % unit:
        below = batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else str(unit)
        parts = f"{unit // accum_steps} devices"
        if accum_steps > 1:
            parts += f" x {accum_steps} micro-batches"
        raise ConfigError(path, f"expected a multiple of {parts}, got {batch_size}; try {near}")


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Return the sharding of a batch: its first dimension over the batch axes."""
    return jax.sharding.NamedSharding(mesh, jax.P(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Return the sharding of an array that is replicated on every device."""
    return jax.sharding.NamedSharding(mesh, jax.P())


def to_global(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Move this host's rows of a batch to its devices, and return the global batch."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, rows) for key, rows in batch.items()
    }


def param_shardings(boxed: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return the sharding of each parameter, from the names of its dimensions.

    Args:
      boxed: The parameters with named dimensions, from `jax.eval_shape` of a linen `init`.
      mesh: The device mesh.

    Raises:
      ConfigError: The size of a dimension is not divisible by that of its mesh axis.
    """
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)
    paths = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed))
    for (path, leaf), sharding in zip(paths, jax.tree.leaves(shardings), strict=True):
        for size, axis in zip(leaf.shape, sharding.spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                name = "/".join(str(key.key) for key in path)
                raise ConfigError(
                    f"config.mesh.{axis}",
                    f"expected a divisor of {size}, a dimension of {name}, got {mesh.shape[axis]}",
                )
    return shardings


def sharded_shapes(boxed: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return shape, dtype and sharding of each parameter; see `param_shardings`."""
    return jax.tree.map(with_sharding, nn.unbox(boxed), param_shardings(boxed, mesh))


def with_sharding(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of an array, abstract or concrete, with a sharding."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def keep_dimensions(
    leaf: jax.ShapeDtypeStruct, dimensions: Sequence[int]
) -> jax.sharding.NamedSharding:
    """Return the sharding of an array that has only some dimensions of another, as those lie."""
    spec = (*leaf.sharding.spec, *(None,) * len(leaf.shape))
    return jax.sharding.NamedSharding(leaf.sharding.mesh, jax.P(*(spec[i] for i in dimensions)))
