"""What a command prints: lines, and the progress of a task."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence

import jax
import rich.cells
import rich.console
import rich.progress
import rich.text

from vit_jax.console.pace import Pace
from vit_jax.console.text import printable

# Columns of a progress line; a narrower terminal has fewer.
WIDTH = 80
_INDENT = " " * 10

# Seconds between updates on a terminal.
_REFRESH = 0.1

_console, _aside = (
    rich.console.Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=stderr)
    for stderr in (False, True)
)


def say(message: str, console: rich.console.Console = _console) -> None:
    """Print a line without control characters; only the first process prints."""
    if jax.process_index() == 0:
        console.print(printable(message, console.encoding))


def say_aside(message: str) -> None:
    """Print a line that is not part of the output: on stderr, unless stdout is a terminal."""
    say(message, _console if _console.is_terminal else _aside)


def warn(message: str) -> None:
    """Print a warning on stderr; every process prints its own."""
    where = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    complain(f"warning: {where}{message}")


def complain(message: str) -> None:
    """Print a line on stderr without control characters."""
    print(printable(message, sys.stderr.encoding), file=sys.stderr, flush=True)


class Progress:
    """The progress of a task: a bar on a terminal, a plain line now and then elsewhere.

    No line is wider than 80 columns, or than the terminal.

    Args:
      total: Number of steps of the task; 0 if it is not known.
      start: Number of steps that were done before.
      every_seconds: Seconds between plain lines.
      label: What the line is about, such as `step`.
      aside: Whether to print on stderr if stdout is not a terminal.
      clock: Returns the time in seconds.
    """

    def __init__(
        self,
        total: int,
        start: int,
        every_seconds: float,
        label: str,
        *,
        aside: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = Pace()
        self._console = _aside if aside and not _console.is_terminal else _console
        self._total = total
        self._label = label
        self._clock = clock
        self._bar: _Bar | None = None
        self._every = self._every_line = every_seconds
        self._last = self._last_line = clock()
        if self._console.is_terminal and jax.process_index() == 0:
            self._every = _REFRESH
            self._bar = _Bar(self._console)
            if total:
                self._draw(self._head(start), "ETA --", (), start, total)
            else:
                self._draw(label, "", (), start, None)
            self._bar.start()

    def due(self) -> bool:
        """Return whether it is time to show the progress again."""
        return self._clock() - self._last >= self._every

    def line_due(self) -> bool:
        """Return whether `every_seconds` have passed, also on a terminal."""
        return self._clock() - self._last_line >= self._every_line

    def mark(self, step: int, waited: float = 0.0) -> None:
        """Record that a step is done now, after some seconds of waiting for data."""
        self.pace.mark(step, self._clock(), waited)

    def show(self, step: int, *parts: str, extra_seconds: int | float = 0.0) -> None:
        """Show that a step is done, the time left, and other details.

        Args:
          step: Number of steps that are done.
          *parts: Details as text, such as `loss 0.1234`.
          extra_seconds: What the rest of the task takes in addition to its steps.
        """
        self.mark(step)
        rate = self.pace.steps_per_second
        left = None if rate is None else (self._total - step) / rate + extra_seconds
        eta = "--" if left is None else format_seconds(left)
        self._draw(self._head(step), f"ETA {eta}", parts, step, self._total)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _head(self, step: int) -> str:
        return f"{self._label} {step:,}/{self._total:,}"

    def _draw(
        self,
        head: str,
        eta: str,
        parts: Sequence[str],
        done: int | float,
        total: int | float | None,
    ) -> None:
        """Show what is done, the time left and other details."""
        self._last = self._clock()
        if self._last - self._last_line >= self._every_line:
            self._last_line = self._last
        encoding = self._console.encoding
        head, eta, *parts = (printable(text, encoding) for text in (head, eta, *parts))
        if self._bar is not None:
            self._bar.draw(head, eta, parts, done, total)
        else:
            for line in fit([text for text in (head, eta, *parts) if text], WIDTH):
                say(line, self._console)


class _Bar(rich.progress.Progress):
    """A progress bar that is updated in place, and lines of details below it."""

    def __init__(self, console: rich.console.Console) -> None:
        self._details = rich.text.Text()
        super().__init__(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.TaskProgressColumn("{task.percentage:.0f}%"),
            rich.progress.TextColumn("{task.fields[eta]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
        )
        self._only = self.add_task("", total=None, eta="")

    def get_renderables(self) -> Iterable[rich.console.RenderableType]:
        """Yield the bar, then the details."""
        yield from super().get_renderables()
        if self._details:
            yield self._details

    def draw(
        self,
        head: str,
        eta: str,
        parts: Sequence[str],
        done: int | float,
        total: int | float | None,
    ) -> None:
        """Set what the next update shows."""
        width = min(WIDTH, self.console.width)
        self._details = rich.text.Text("\n".join(fit(parts, width)))
        self.tasks[0].total = total  # `update` would keep the old total for None
        self.update(self._only, description=head, eta=eta, completed=done)


def fit(parts: Sequence[str], width: int) -> list[str]:
    """Return the parts as lines of at most `width` columns; lines after the first are indented."""
    lines: list[str] = []
    for part in parts:
        if lines and rich.cells.cell_len(f"{lines[-1]}  {part}") <= width:
            lines[-1] = f"{lines[-1]}  {part}"
        else:
            line = _INDENT + part if lines else part
            is_wide = rich.cells.cell_len(line) > width
            lines.append(rich.cells.set_cell_size(line, width) if is_wide else line)
    return lines


def format_seconds(seconds: float) -> str:
    """Return h:mm:ss, or m:ss if it is less than an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
