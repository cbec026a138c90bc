"""The metrics of a run by step: metrics.jsonl and TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import tensorboardX
from etils import epath

from vit_jax.console.progress import warn
from vit_jax.console.workdir import is_local, write_text


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
        """Return the metrics `PREFIX/KEY` that were written for a step, by key."""
        found: dict[str, float] = {}
        for row in self._rows:
            if row["step"] == step:
                marked = {key.partition("/")[::2]: value for key, value in row.items()}
                found |= {key: value for (mark, key), value in marked.items() if mark == prefix}
        return found

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
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
        """Make sure that what was written survives the process."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        elif self._active:  # object stores cannot append
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """Return the whole rows of a metrics.jsonl; a row cut off by a kill does not count.

    Damaged rows are left out with a warning.
    """
    rows = []
    damaged = 0
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for line in lines[:-1]:  # what follows the last end of a line was cut off
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            damaged += 1
    if damaged:
        warn(f"{path}: {damaged} damaged rows are left out")
    return rows


def _is_evaluation(row: Mapping[str, Any]) -> bool:
    return any("/" in key for key in row)
