"""The batch sizes that a search tries: they can be sharded, and are about a sixteenth apart."""

import dataclasses
from collections.abc import Iterator

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError
from vit_jax.training import schedules

_STEPS = 16  # batch sizes from one power of two to the next


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batch sizes that a run can have, whether they fit into memory or not.

    Attributes:
      shards: The number of shards of a batch.
      accum_steps: The number of micro-batches per step.
      sizes: The batch sizes in rising order: multiples of shards x micro-batches.
      end: Why there is no larger one.
    """

    shards: int
    accum_steps: int
    sizes: tuple[int, ...]
    end: str


def find_batches(config: config_lib.Config, num_devices: int, num_images: int) -> Batches:
    """Return the batch sizes that a run can have; that of the config is one, if it can be sharded.

    Args:
      config: The config of the run.
      num_devices: The number of devices.
      num_images: The number of images of the training split.

    Raises:
      ConfigError: Not even the smallest batch can be trained.
    """
    shards, accum_steps = batch_shards(config.mesh, num_devices), config.optim.accum_steps
    unit = shards * accum_steps
    sizes = {size for size in (config.batch_size,) if size % unit == 0}
    end = ""
    for size in sorted({*_multiples(unit, num_images), *sizes}):
        end = _find_problem(config, size, num_images)
        if end:
            sizes = {fine for fine in sizes if fine < size}
            break
        sizes.add(size)
    if not sizes:
        parts = f"{shards} devices x {accum_steps} micro-batches"
        raise ConfigError("config.batch_size", f"expected a multiple of {parts}, but {end}")
    return Batches(shards, accum_steps, tuple(sorted(sizes)), end)


def batch_shards(mesh: config_lib.Mesh, num_devices: int) -> int:
    """Return the number of shards of a batch on a mesh of so many devices."""
    data, fsdp, tensor = mesh.sizes
    return data * fsdp if tensor == -1 else num_devices // tensor


def _multiples(unit: int, highest: int) -> Iterator[int]:
    """Yield multiples of the unit in rising order, the last two around the highest."""
    multiple, last = 1, highest // unit
    while multiple <= last:
        yield multiple * unit
        multiple += 1 << max(0, (multiple // _STEPS).bit_length() - 1)
    yield from (last * unit, (last + 1) * unit) if last else (unit,)


def _find_problem(config: config_lib.Config, size: int, num_images: int) -> str:
    """Return why a run cannot have a batch size; empty if it can."""
    if size > num_images:
        return f"the training split holds {num_images:,} images"
    try:
        schedules.plan(dataclasses.replace(config, batch_size=size), num_images)
    except ConfigError as error:
        return f"{error} (batch_size={size})"
    return ""
