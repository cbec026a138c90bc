"""The metrics of a run: metrics.jsonl and TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import tensorboardX
from etils import epath

from vit_jax.console.progress import warn
from vit_jax.console.workdir import METRICS, is_local, write_text


class MetricsWriter:
    """Writes the metrics of each step to metrics.jsonl and TensorBoard.

    When a run resumes, rows of steps after the checkpoint are removed.

    Args:
      workdir: The work directory.
      step: The step that the run starts from.
      tensorboard: Whether to write TensorBoard events.
    """

    def __init__(self, workdir: epath.Path, step: int, *, tensorboard: bool) -> None:
        self._path = workdir / METRICS
        self._local = is_local(workdir)
        self._active = jax.process_index() == 0
        self._rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._file: TextIO | None = None
        self._board: tensorboardX.SummaryWriter | None = None
        if not self._active:
            return
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._local:  # `find` needs only the evaluations, which are few
            self._rows = [row for row in self._rows if _is_evaluation(row)]
            self._file = open(self._path, "a", buffering=1)  # noqa: SIM115 - closed in `close`
        if tensorboard:
            self._board = tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1)

    def find(self, step: int, prefix: str) -> dict[str, float]:
        """Return the metrics of a step named `PREFIX/KEY`, by key."""
        found: dict[str, float] = {}
        for row in self._rows:
            if row["step"] == step:
                marked = {key.partition("/")[::2]: value for key, value in row.items()}
                found |= {key: value for (mark, key), value in marked.items() if mark == prefix}
        return found

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row with the metrics of a step."""
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
        """Write everything to disk, so that it survives a crash."""
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
    """Return the rows of a metrics.jsonl file.

    The last row is left out if it is incomplete, because the process was killed. Other corrupt rows
    are left out with a warning.
    """
    rows = []
    corrupt = 0
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for line in lines[:-1]:  # what follows the last newline is incomplete
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            corrupt += 1
    if corrupt:
        warn(f"{path}: {corrupt} corrupt rows are left out")
    return rows


def _is_evaluation(row: Mapping[str, Any]) -> bool:
    return any("/" in key for key in row)
