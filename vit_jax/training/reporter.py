"""The metrics of a run while it trains: fetched one step late, written and shown.

The row of a step has the metrics that follow from the run. Where a progress line is due, it also
has those that are measured.
"""

import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

import jax

from vit_jax import config as config_lib
from vit_jax.console.metrics_writer import MetricsWriter
from vit_jax.console.progress import Progress
from vit_jax.console.waiting import waiting
from vit_jax.data import loader
from vit_jax.errors import DivergedError
from vit_jax.training.measuring import Idle, memory_in_use
from vit_jax.training.results import Evaluated
from vit_jax.training.state import TrainState
from vit_jax.training.update import METRICS

# The share of the time in which the devices wait for data from which the progress shows it.
_NOTABLE_WAITING = 0.05


class Reporter:
    """Fetches the metrics of a step while the next one runs; writes and shows them.

    Args:
      config: The config of the run.
      writer: Where the metrics are written.
      state: The state that the run starts from.
      total: Number of steps at the end of the run.
      peak: Images per second at the peak FLOPs of the devices, for the MFU; None: not known.
      clock: Returns the time in seconds.
      executor: Where to wait for the end of a step; a thread by default.
      idle: Takes the seconds in which the devices waited for data, with each step.

    Raises:
      DivergedError: Too many steps in a row were skipped because they were not finite.
    """

    def __init__(
        self,
        config: config_lib.Config,
        writer: MetricsWriter,
        state: TrainState,
        total: int,
        peak: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        executor: concurrent.futures.Executor | None = None,
        idle: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._config = config
        self._writer = writer
        self._total = total
        self._peak = peak
        self._clock = clock
        self._idle = Idle(clock, executor)
        self._book_idle = idle
        start = int(state.step)
        self._progress = Progress(total, start, config.log.every_seconds, "step", clock=clock)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._skipped_before = float(state.skipped)
        self._skipped_in_a_row = 0
        self._is_first_batch = True
        self._evaluations = 0
        self._evaluation_seconds = 0.0  # of the last evaluation; 0 until one ran without compiling

    def wait_for(self, batches: Iterator[loader.Batch]) -> loader.Batch:
        """Return the next batch, and measure how long the devices have nothing to do without it."""
        announced: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self._is_first_batch:
            announced = waiting("reading the first batch")
            self._is_first_batch = False
        with announced, self._idle.waiting():
            return next(batches)

    def push(self, step: int, step_metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a step that has just been started; report the step before it."""
        self._idle.follow(step_metrics)
        self.drain()
        self._pending = step, step_metrics

    def drain(self) -> None:
        """Wait for the step whose metrics are pending, and report it."""
        if self._pending is None:
            return
        step, arrays = self._pending
        self._pending = None
        values = {key: value.item() for key, value in jax.device_get(arrays).items()}
        idle = self._idle.take()
        self._book_idle(idle)
        self._progress.mark(step, idle)
        shows = self._progress.due()
        measured = self._measure() if shows else {}
        is_row_due = shows and self._progress.line_due()
        self._writer.write(step, {**values, **measured} if is_row_due else values)
        self._check_finite(step, values)
        if shows:
            self._show(step, values, measured)

    def evaluate(self, evaluate: Callable[[], Evaluated]) -> Evaluated:
        """Run an evaluation and return what it found; the ETA expects later ones to take as long.

        Args:
          evaluate: Returns what it found; without results if nothing was evaluated.
        """
        began = self._clock()
        with self.pause():
            found = evaluate()
        self._evaluations += bool(found.results)
        if found.results and self._evaluations > 1:  # the first one also compiles
            self._evaluation_seconds = self._clock() - began
        return found

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time that the block takes out of the pace of the steps."""
        yield
        self._progress.pace.pause()

    def close(self) -> None:
        """Remove the progress bar."""
        self._progress.close()
        self._idle.close()

    def _measure(self) -> dict[str, int | float]:
        """Return the metrics of `MEASURED` that are known."""
        pace = self._progress.pace
        measured: dict[str, int | float] = {}
        if pace.steps_per_second is not None:
            speed = pace.steps_per_second * self._config.batch_size
            measured = {"images_per_second": speed, "step_seconds": 1 / pace.steps_per_second}
            if self._peak:
                measured["mfu"] = speed / self._peak
            measured["waiting_for_data"] = pace.waiting_share
        return {**measured, **memory_in_use()}

    def _show(
        self, step: int, values: Mapping[str, float], measured: Mapping[str, int | float]
    ) -> None:
        parts = [f"loss {values['loss']:.4f}", f"lr {values['learning_rate']:.1e}"]
        parts += _describe(measured)
        parts += [f"{name} {value:.4g}" for name, value in values.items() if name not in METRICS]
        if values["skipped"]:
            parts.append(f"skipped steps {values['skipped']:,} (not finite)")
        self._progress.show(step, *parts, extra_seconds=self._seconds_of_evaluations(step))

    def _seconds_of_evaluations(self, step: int) -> float:
        """Return how long the evaluations after a step take if each takes as long as the last."""
        every = self._config.eval.every_steps
        between = (self._total - 1) // every - step // every if every else 0
        return (between + 1) * self._evaluation_seconds

    def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
        skipped = values["skipped"] > self._skipped_before
        self._skipped_before = values["skipped"]
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row >= self._config.max_skipped:
            bad = [f"{key} {v}" for key, v in values.items() if not math.isfinite(v)]
            raise DivergedError(
                f"step {step}: {self._skipped_in_a_row} steps in a row were not finite "
                f"({', '.join(bad) or 'their updates'}); all checkpoints are finite; "
                "lower config.optim.learning_rate or set config.optim.clip_norm=1"
            )


def _describe(measured: Mapping[str, int | float]) -> Iterator[str]:
    """Yield what the progress shows of the measured metrics."""
    if "images_per_second" in measured:
        yield f"{measured['images_per_second']:,.0f} images/s"
        yield f"{1e3 * measured['step_seconds']:,.1f} ms/step"
    if "mfu" in measured:
        yield f"MFU {measured['mfu']:.1%}"
    if measured.get("waiting_for_data", 0.0) >= _NOTABLE_WAITING:
        yield f"waiting for data {measured['waiting_for_data']:.0%} of the time"
    if "memory_bytes" in measured:
        peak = measured.get("peak_memory_bytes")
        most = "" if peak is None else f" (peak {peak / 2**30:.1f})"
        yield f"memory {measured['memory_bytes'] / 2**30:.1f} GiB{most}"
