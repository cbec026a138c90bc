"""A function of every image of a source: one row for each readable image, in order.

The order in which XLA sums depends on the shapes of a program. Therefore each device takes a fixed
number of rows in each call, and runs the same program on them by itself: the values have the same
bytes on any number of devices and hosts of one kind.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vit_jax import config as config_lib
from vit_jax.cluster import hosts, sharding
from vit_jax.cluster.exhaustion import explaining_exhaustion
from vit_jax.console.progress import Progress
from vit_jax.console.waiting import compiled_first
from vit_jax.data import loader, transforms
from vit_jax.data.sources import Source
from vit_jax.errors import DataError

EVERY_SECONDS = 10.0  # between two lines of progress

# Options of the compiler, by platform. XLA chooses kernels for GPUs by measuring their time, so two
# compilations of a program may sum in different orders; this option forbids it.
OPTIONS = {"gpu": {"xla_gpu_deterministic_ops": True}}

# `(variables, normalized images (b, h, w, c)) -> arrays (b, ...)` by name.
Function = Callable[[Mapping[str, Any], Array], Mapping[str, Array]]


class Rows(NamedTuple):
    """One row for each of the n readable images of a source."""

    indices: Int[np.ndarray, " n"]  # of the images in the source, increasing
    labels: Int[np.ndarray, " n"]
    values: dict[str, np.ndarray]  # (n, ...) by name; floating point values are float32
    skipped: dict[int, str]  # reason of each unreadable image, by index


class PerImage:
    """Applies a function to every readable image of a source, once and in order.

    Args:
      function: Maps `variables` and normalized images, float32 (b, h, w, c), to arrays (b, ...) by
        name. It is compiled, and runs on each device by itself.
      data: The data section of the config: transforms, threads and workers.
      mesh: The device mesh.
      rows_per_device: Number of images that a device takes in each call; the bytes of the values
        depend on it.
      title: What the progress is about, such as `embed`.
    """

    def __init__(
        self,
        function: Function,
        data: config_lib.Data,
        mesh: jax.sharding.Mesh,
        rows_per_device: int = 32,
        title: str = "embed",
    ) -> None:
        self._data = data
        self._mesh = mesh
        self._per_device = rows_per_device
        self._size = rows_per_device * sharding.batch_divisor(mesh)
        self._title = title
        self._step = compiled_first(_make_step(function, data, mesh), "model")

    def __call__(self, variables: Mapping[str, Any], source: Source) -> Rows:
        """Return the rows of the readable images; they are the same on every host.

        Args:
          variables: `params` and the other collections of the model.
          source: The images.

        Raises:
          ConfigError: A device has too little memory.
          DataError: More images are unreadable than the config allows, or there is no other.
        """
        height, width = self._data.image_size
        hint = f"{self._per_device} images of {height}x{width} pixels per device are too many"
        with jax.set_mesh(self._mesh), explaining_exhaustion("config.data.image_size", hint):
            return self._collect(variables, source)

    def _collect(self, variables: Mapping[str, Any], source: Source) -> Rows:
        """Return the rows of all batches as one."""
        count = 0
        indices, labels = (np.empty(len(source), dtype) for dtype in (np.int64, np.int32))
        values: dict[str, np.ndarray] = {}
        for i, output in enumerate(self._outputs(variables, source)):
            (rows,) = np.nonzero(output["mask"])
            taken = slice(count, count := count + len(rows))
            indices[taken] = i * self._size + rows
            labels[taken] = output["label"][rows]
            for name, value in output["values"].items():
                if name not in values:
                    values[name] = np.empty((len(source), *value.shape[1:]), value.dtype)
                values[name][taken] = value[rows]
        if not count:
            raise DataError(f"{source.title}: expected an image that can be read, found none")
        cut = {name: value[:count] for name, value in values.items()}
        return Rows(indices[:count], labels[:count], cut, _unreadable(source))

    def _outputs(self, variables: Mapping[str, Any], source: Source) -> Iterator[dict[str, Any]]:
        """Yield the output of each batch, fetched while the devices compute the next one."""
        host, num_hosts = sharding.batch_shard(self._mesh)
        total = math.ceil(len(source) / self._size)
        batches = loader.eval_batches(
            source, self._data, self._size, host=host, num_hosts=num_hosts
        )
        progress = Progress(total, 0, EVERY_SECONDS, self._title)
        previous = None
        try:
            variables = jax.device_put(variables, sharding.replicated(self._mesh))
            for i, batch in enumerate(batches):
                current = self._step(variables, sharding.to_global(batch, self._mesh))
                if previous is not None:
                    yield jax.device_get(previous)
                    progress.mark(i)
                if i and progress.due():
                    rate = progress.pace.steps_per_second
                    speed = [f"{rate * self._size:,.0f} images/s"] if rate else []
                    progress.show(i, f"{i * self._size:,} images", *speed)
                previous = current
            if previous is not None:
                yield jax.device_get(previous)
        finally:
            progress.close()
            batches.close()


def _make_step(
    function: Function, data: config_lib.Data, mesh: jax.sharding.Mesh
) -> Callable[[Mapping[str, Any], Mapping[str, Array]], dict[str, Any]]:
    """Return the jitted step: from variables and a batch to the label, mask and values of rows."""
    rows = jax.P(sharding.BATCH_AXES)

    # No axis rules are set here, as each device has its own rows and all variables.
    def apply(variables: Any, pixels: Array) -> dict[str, Array]:
        values = function(variables, transforms.normalize(pixels, data.mean, data.std))
        values = {name: _to_float32(value) for name, value in values.items()}
        # Without it, XLA gathers bfloat16 of several devices, but does not round on a single one.
        return jax.lax.optimization_barrier(values)

    mapped = jax.shard_map(
        apply, mesh=mesh, in_specs=(jax.P(), rows), out_specs=rows, check_vma=False
    )

    def step(variables: Any, batch: Mapping[str, Array]) -> dict[str, Any]:
        values = mapped(variables, batch["image"])
        return {"label": batch["label"], "mask": batch["mask"], "values": values}

    options = OPTIONS.get(mesh.devices.flat[0].platform)
    return jax.jit(step, out_shardings=sharding.replicated(mesh), compiler_options=options)


def _to_float32(x: Array) -> Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _unreadable(source: Source) -> dict[int, str]:
    """Return the reason of each unreadable image by index; each host knows those that it read."""
    texts = hosts.gather(json.dumps(list(source.unreadable.items())))
    return dict(sorted((index, reason) for text in texts for index, reason in json.loads(text)))
