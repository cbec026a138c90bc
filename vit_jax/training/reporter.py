"""The view of a running training: metrics fetched one step late, written and shown."""

import math
import time
from collections.abc import Iterator, Mapping

import jax

from vit_jax import config as config_lib
from vit_jax.console.metrics_writer import MetricsWriter
from vit_jax.console.progress import Progress
from vit_jax.data import loader
from vit_jax.errors import DivergedError
from vit_jax.training.state import TrainState
from vit_jax.training.update import METRICS


class Reporter:
    """Fetches the metrics of a step while the next one runs; writes and shows them.

    Raises:
      DivergedError: Too many steps in a row were skipped, because they were not finite.
    """

    def __init__(
        self, config: config_lib.Config, writer: MetricsWriter, state: TrainState, total: int
    ) -> None:
        start = int(state.step)
        self._config = config
        self._writer = writer
        self._progress = Progress(total, start, config.log.every_seconds, "step")
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._skipped_before = float(state.skipped)
        self._in_a_row = 0
        self._waited = 0.0
        self._window = (time.monotonic(), start)

    def wait_for(self, batches: Iterator[loader.Batch]) -> loader.Batch:
        """Return the next batch, and count the time that it took."""
        began = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - began
        return batch

    def push(self, step: int, step_metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a step just started, and report those of the one before."""
        self.drain()
        self._pending = step, step_metrics

    def drain(self) -> None:
        """Report what is pending."""
        if self._pending is None:
            return
        step, arrays = self._pending
        self._pending = None
        values = {key: value.item() for key, value in jax.device_get(arrays).items()}
        self._writer.write(step, values)
        self._check_finite(step, values)
        if self._progress.due():
            self._show(step, values)

    def close(self) -> None:
        """Take the progress line away."""
        self._progress.close()

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        then, before = self._window
        speed = (step - before) * self._config.batch_size / max(now - then, 1e-9)
        waiting = self._waited / max(now - then, 1e-9)
        if now - then > 2:
            self._window = now, step
            self._waited = 0.0
        parts = [
            f"loss {values['loss']:.4f}",
            f"lr {values['learning_rate']:.1e}",
            f"{speed:,.0f} images/s",
            f"data {waiting:.0%}",
        ]
        parts += [f"{name} {value:.4g}" for name, value in values.items() if name not in METRICS]
        if values["skipped"]:
            parts.append(f"skipped {values['skipped']}")
        self._progress.show(step, " | ".join(parts))

    def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
        skipped = values["skipped"] > self._skipped_before
        self._skipped_before = values["skipped"]
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= self._config.max_skipped:
            bad = [f"{key} {v}" for key, v in values.items() if not math.isfinite(v)]
            raise DivergedError(
                f"step {step}: {self._in_a_row} steps in a row were not finite "
                f"({', '.join(bad) or 'their updates'}); nothing bad was saved; "
                "try a lower config.optim.learning_rate or config.optim.clip_norm=1"
            )
