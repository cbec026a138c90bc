"""What a command says: lines, and one progress line."""

import sys
import time

import jax
import rich.console
import rich.progress

from vit_jax.console.text import printable

_console, _aside = (
    rich.console.Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=stderr)
    for stderr in (False, True)
)


def say(message: str, console: rich.console.Console = _console) -> None:
    """Print a line, without control characters; only the first process speaks."""
    if jax.process_index() == 0:
        console.print(printable(message, console.encoding))


def say_aside(message: str) -> None:
    """Print a line that is no part of the output: on stderr, where that is no terminal."""
    say(message, _console if _console.is_terminal else _aside)


def warn(message: str) -> None:
    """Print a line on stderr, whichever process it is that has to say it."""
    where = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    complain(f"warning: {where}{message}")


def complain(message: str) -> None:
    """Print a line on stderr, without control characters."""
    print(printable(message, sys.stderr.encoding), file=sys.stderr, flush=True)


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
        self._total = total
        self._start = start
        self._label = label
        self._every = every_seconds
        self._began = self._last = time.monotonic()
        self._live: rich.progress.Progress | None = None
        if self._console.is_terminal and jax.process_index() == 0:
            text = rich.progress.TextColumn("{task.description}", markup=False)
            self._live = rich.progress.Progress(
                text, console=self._console, transient=True, redirect_stdout=False
            )
            self._task = self._live.add_task("", total=total, completed=start)
            self._live.start()

    def due(self) -> bool:
        """Return whether it is time for another line."""
        return self._live is not None or time.monotonic() - self._last >= self._every

    def show(self, step: int, text: str) -> None:
        """Show the line for a step: position, the text, time left."""
        self._last = time.monotonic()
        done = step - self._start
        left = (self._last - self._began) / max(done, 1) * (self._total - step)
        line = f"{self._label} {step:,}/{self._total:,} ETA {format_seconds(left)} | {text}"
        self._put(line, completed=step)

    def _put(self, line: str, completed: int | None = None) -> None:
        if self._live is None:
            say(line, self._console)
        else:
            line = printable(line, self._console.encoding)
            self._live.update(self._task, description=line, completed=completed)

    def close(self) -> None:
        """Take the line away."""
        if self._live is not None:
            self._live.stop()


def format_seconds(seconds: float) -> str:
    """Return h:mm:ss, or m:ss under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
