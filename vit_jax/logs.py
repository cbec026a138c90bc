"""What a run says and writes: lines, one progress line, metrics.jsonl, TensorBoard."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import rich.console
import rich.progress
import tensorboardX
from etils import epath

from vit_jax.workdir import is_local, write_text

_console, _aside = (
    rich.console.Console(highlight=False, markup=False, soft_wrap=True, stderr=stderr)
    for stderr in (False, True)
)


def say(message: str, console: rich.console.Console = _console) -> None:
    """Prints a line; only the first process speaks."""
    if jax.process_index() == 0:
        console.print(message)


def warn(message: str) -> None:
    """Prints a line on stderr, whichever process it is that has to say it."""
    where = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    print(f"warning: {where}{message}", file=sys.stderr, flush=True)


class Progress:
    """One line that is updated in place on a terminal; elsewhere, a plain line now and then.

    Args:
      total: Steps until the end.
      start: Steps done before.
      every_seconds: Between plain lines.
      label: What is being counted.
      aside: Whether to keep out of the output where that is no terminal: it goes to stderr.
    """

    def __init__(
        self, total: int, start: int, every_seconds: float, label: str, *, aside: bool = False
    ) -> None:
        self._console = _aside if aside and not _console.is_terminal else _console
        self._total, self._start, self._label = total, start, label
        self._every, self._last = every_seconds, time.monotonic()
        self._began = time.monotonic()
        self._live: rich.progress.Progress | None = None
        if self._console.is_terminal and jax.process_index() == 0:
            text = rich.progress.TextColumn("{task.description}")
            self._live = rich.progress.Progress(
                text, console=self._console, transient=True, redirect_stdout=False
            )
            self._task = self._live.add_task("", total=total, completed=start)
            self._live.start()

    def due(self) -> bool:
        """Returns whether it is time for another line."""
        return self._live is not None or time.monotonic() - self._last >= self._every

    def show(self, step: int, text: str) -> None:
        """Shows the line for a step: position, the text, time left."""
        self._last = time.monotonic()
        done = step - self._start
        left = (self._last - self._began) / max(done, 1) * (self._total - step)
        line = f"{self._label} {step:,}/{self._total:,} ETA {format_seconds(left)} | {text}"
        if self._live is None:
            say(line, self._console)
        else:
            self._live.update(self._task, description=line, completed=step)

    def close(self) -> None:
        """Takes the line away."""
        if self._live is not None:
            self._live.stop()


class MetricsWriter:
    """Writes metrics by step to metrics.jsonl and TensorBoard.

    What an earlier process wrote after the step that it is resumed from is cut off.

    Args:
      workdir: Of the run.
      step: The step that the run starts from.
      tensorboard: Whether to write TensorBoard events.
    """

    def __init__(self, workdir: epath.Path, step: int, *, tensorboard: bool) -> None:
        self._path = workdir / "metrics.jsonl"
        self._local = is_local(workdir)
        self._active = jax.process_index() == 0
        self._rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._file: TextIO | None = None
        self._board: tensorboardX.SummaryWriter | None = None
        if not self._active:
            return
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._local:  # only evaluations are asked for again, and they are few
            self._rows = [row for row in self._rows if _is_evaluation(row)]
            self._file = open(self._path, "a", buffering=1)  # noqa: SIM115 - closed in `close`
        if tensorboard:
            self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1)

    def find(self, step: int, prefix: str) -> dict[str, float]:
        """Returns the metrics `PREFIX/KEY` that were written for a step, by key."""
        found: dict[str, float] = {}
        for row in self._rows:
            if row["step"] == step:
                marked = {key.partition("/")[::2]: value for key, value in row.items()}
                found |= {key: value for (mark, key), value in marked.items() if mark == prefix}
        return found

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a row."""
        if not self._active:
            return
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        row = {"step": step, **finite}  # JSON has no NaN
        if self._file is None or _is_evaluation(row):
            self._rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def flush(self) -> None:
        """Makes sure that what was written survives the process."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        elif self._active:  # object stores cannot append
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the whole rows of a metrics.jsonl; a row cut off by a kill does not count."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _is_evaluation(row: Mapping[str, Any]) -> bool:
    return any("/" in key for key in row)


def format_seconds(seconds: float) -> str:
    """Returns h:mm:ss, or m:ss under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
