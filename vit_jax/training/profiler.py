"""A profile of some steps: a trace of what host and devices do, for XProf."""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import jax
from etils import epath

from vit_jax.console.progress import say, warn
from vit_jax.errors import ConfigError

FLAG = "--profile"
DIRECTORY = "profile"


class Window(NamedTuple):
    """The steps to trace: from the first to the last, both included."""

    first: int
    last: int


NO_STEPS = Window(0, 0)


def parse_window(text: str) -> Window:
    """Return the steps that a flag names, such as `10:15`; none for an empty text.

    Raises:
      ConfigError: The text is not FIRST:LAST with 1 <= FIRST <= LAST.
    """
    if not text:
        return NO_STEPS
    match = re.fullmatch(r"([0-9]{1,12}):([0-9]{1,12})", text)
    window = Window(*map(int, match.groups())) if match else NO_STEPS
    if not 1 <= window.first <= window.last:
        raise ConfigError(FLAG, f"expected FIRST:LAST, steps such as 10:15, got '{text}'")
    return window


class Profiler:
    """Traces the steps of a window on host 0; all hosts run the same program.

    The trace is written to a temporary folder, and is copied to the work directory at its end.

    Args:
      window: The steps to trace.
      workdir: The work directory.
      start: The step that the run starts from.
      total: Number of steps at the end of the run.
    """

    def __init__(self, window: Window, workdir: epath.Path, start: int, total: int) -> None:
        self._directory = workdir / DIRECTORY
        self._first = max(window.first, start + 1)
        self._last = min(window.last, total)
        self._done = start
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of the trace under way
        if window.last and self._first > self._last:
            steps = f"this run makes steps {start + 1:,} to {total:,}"
            say(f"note      {FLAG}={window.first}:{window.last} traces nothing: {steps}")

    def turns(self, step: int) -> bool:
        """Return whether the trace begins or ends after a step."""
        return self._first <= self._last and step in (self._first - 1, self._last)

    def begin_after(self, step: int) -> None:
        """Begin the trace if it begins after a step, whose work on the devices must be done."""
        if self.turns(step) and step < self._first and jax.process_index() == 0:
            self._folder = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._folder.name)

    def end_after(self, step: int) -> None:
        """End the trace if it ends after a step, whose work on the devices must be done."""
        if step == self._last:
            self.close()

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Mark what the block does as the work of a step."""
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        self._done = step

    def close(self) -> None:
        """End the trace, if one is under way, and say where it is."""
        if self._folder is None:
            return
        with self._folder as folder:
            self._folder = None
            jax.profiler.stop_trace()
            try:
                _copy(pathlib.Path(folder), self._directory)
            except OSError as error:
                problem = error.strerror or error
                warn(f"{self._directory} cannot be written ({problem}); the run goes on without it")
                return
        steps = f"steps {self._first:,} to {self._done:,}"
        say(f"profile   {steps}: look at it with xprof --logdir={self._directory}")


def _copy(folder: pathlib.Path, directory: epath.Path) -> None:
    """Copy the files below a folder to a directory, local or not."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = directory / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
