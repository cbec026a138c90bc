"""Measurements of a run while it trains: idle devices, memory, and the throughput at their peak."""

import concurrent.futures
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import psutil

from vit_jax.training import flops
from vit_jax.training.run import Run

# Metrics that depend on the machine and the time, beside those that follow from the run.
MEASURED = (
    "images_per_second",
    "step_seconds",
    "mfu",
    "waiting_for_data",
    "memory_bytes",
    "peak_memory_bytes",
)

# The memory metrics, and their names in the statistics of a device.
_MEMORY = {"memory_bytes": "bytes_in_use", "peak_memory_bytes": "peak_bytes_in_use"}


class Idle:
    """Measures how long the devices have nothing to do because a batch has not arrived.

    To wait for a batch while a step runs costs nothing. A thread notes when the newest step ends.

    Args:
      clock: Returns the time in seconds.
      executor: Where to wait for the end of a step; a thread by default.
    """

    def __init__(
        self, clock: Callable[[], float], executor: concurrent.futures.Executor | None = None
    ) -> None:
        self._clock = clock
        self._executor = executor or concurrent.futures.ThreadPoolExecutor(1, "step-end")
        self._end: concurrent.futures.Future[float] | None = None  # of the newest step
        self._waits: list[tuple[float, float, concurrent.futures.Future[float] | None]] = []

    def follow(self, results: Any) -> None:
        """Take the results of a step that has just been started."""
        self._end = self._executor.submit(self._time_of_end, results)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a block that waits for a batch."""
        began = self._clock()
        yield
        self._waits.append((began, self._clock(), self._end))

    def take(self) -> float:
        """Return the idle seconds of the waits since the last call.

        The steps before these waits must have ended.
        """
        seconds = math.fsum(
            max(0.0, arrived - max(began, end.result() if end else began))
            for began, arrived, end in self._waits
        )
        self._waits = []
        return seconds

    def close(self) -> None:
        """End the thread once the newest step has ended, without waiting for it."""
        self._executor.shutdown(wait=False)

    def _time_of_end(self, results: Any) -> float:
        jax.block_until_ready(results)
        return self._clock()


def memory_in_use() -> dict[str, int]:
    """Return the memory in use and its peak in bytes, of the local device that uses most.

    For a CPU, it is the resident memory of the process, without a peak. A GPU has no statistics
    with `XLA_PYTHON_CLIENT_ALLOCATOR=platform`.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return {"memory_bytes": psutil.Process().memory_info().rss}
    found = [device.memory_stats() or {} for device in devices]
    return {
        metric: max(stats.get(name, 0) for stats in found)
        for metric, name in _MEMORY.items()
        if any(name in stats for stats in found)
    }


def peak_images_per_second(run: Run) -> float | None:
    """Return the throughput of a run at the peak FLOPs of its devices; None if that is not known.

    Model FLOPs utilization, MFU, is the share of it that a run reaches (Chowdhery et al. 2022,
    PaLM, appendix B): what `model.remat` computes again does not count.
    """
    peak = run.peak_flops
    return run.mesh.size * peak / flops.count(run).training if peak else None
