"""The goodput of a run: the share of its time that was spent in steps, in `goodput.json`.

The file is no part of the run: without it, the same run starts a new one.
"""

import contextlib
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import psutil
from etils import epath

from vit_jax.console.documents import read_json
from vit_jax.console.progress import format_seconds, say, warn
from vit_jax.console.workdir import GOODPUT, write_json
from vit_jax.training.ledger import PARTS, Account, History, Ledger

# A larger number of seconds or images is damage; sums of smaller ones are finite.
_LARGEST = 1e15

# Seconds between two writes of the file: what a killed attempt spent after the last one is unknown.
EVERY_SECONDS = 5.0


def age_of_process() -> float:
    """Return the seconds since this process was started, which include the imports."""
    if sys.platform != "linux":
        return time.time() - psutil.Process().create_time()
    # psutil knows the time of booting to the second only.
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since booting
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


@contextlib.contextmanager
def recording(workdir: epath.Path, ledger: Ledger, step: int) -> Iterator[None]:
    """Keep `goodput.json` up to date while the block runs, and print a summary when it ends.

    The attempts in the file are taken over. Host 0 reads and writes it.

    Args:
      workdir: The work directory.
      ledger: The account of this attempt.
      step: The step that the attempt starts from.
    """
    if jax.process_index():
        yield
        return
    path = workdir / GOODPUT
    history, written = _read(path)
    began = time.time() - ledger.history().account.total
    ledger.resume(history, step, max(0.0, began - written))
    ended = threading.Event()
    writer = threading.Thread(target=_write_on, args=(path, ledger, ended), daemon=True)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        ledger.saved.set()
        writer.join()
        say(f"goodput   {describe(ledger.history())}")


def describe(history: History) -> str:
    """Return the summary of a run as text.

    93.1 % of 0:12:31 in steps: start 4 s, compile 12 s, waiting for data 3 s, evaluation 20 s, ...
    """
    account = history.account
    others = ", ".join(
        f"{name} {account.seconds.get(part, 0.0):,.0f} s"
        for part, name in PARTS.items()
        if part != "steps"
    )
    text = f"{account.goodput:.1%} of {format_seconds(account.total)} in steps: {others}"
    if history.attempts > 1:
        gap = format_seconds(history.between)
        text += f"; without {gap} between {history.attempts} attempts"
    return text


def summarize(history: History) -> dict[str, Any]:
    """Return the summary of a run as a JSON object; the parts add up to `total_seconds`."""
    account = history.account
    return {
        "goodput": round(account.goodput, 4),
        "total_seconds": round(account.total, 3),
        "attempts": history.attempts,
        "between_seconds": round(history.between, 3),
        **_to_dict(account),
    }


def _write_on(path: epath.Path, ledger: Ledger, ended: threading.Event) -> None:
    """Write the file now, with each checkpoint, every few seconds, and at the end."""
    last = warned = False
    while not last:
        last = ended.is_set()
        history = ledger.history()
        checkpoints = {str(key): _to_dict(value) for key, value in history.checkpoints.items()}
        content = {**summarize(history), "written": time.time(), "checkpoints": checkpoints}
        try:
            write_json(path, content)
        except OSError as error:
            if not warned:
                problem = error.strerror or error
                warn(f"{path} cannot be written ({problem}); the run goes on without it")
            warned = True
        if not last:
            ledger.saved.wait(EVERY_SECONDS)
            ledger.saved.clear()


def _read(path: epath.Path) -> tuple[History, float]:
    """Return the attempts in a file, and when it was written in seconds since 1970."""
    try:
        if not path.exists():
            return History(), 0.0
        content = read_json(path)
        checkpoints = {
            int(step): _to_account(entry) for step, entry in content["checkpoints"].items()
        }
        attempts, between = int(content["attempts"]), _number(content["between_seconds"])
        history = History(_to_account(content), attempts, between, checkpoints)
        return history, _number(content["written"])
    except (OSError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError):
        warn(f"{path} is corrupt; the goodput starts anew with this attempt")
        return History(), 0.0


def _to_dict(account: Account) -> dict[str, Any]:
    seconds = {part: round(account.seconds.get(part, 0.0), 3) for part in PARTS}
    return {"seconds": seconds, "images": account.images}


def _to_account(entry: Mapping[str, Any]) -> Account:
    seconds = {part: _number(entry["seconds"][part]) for part in PARTS}
    return Account(seconds, int(_number(entry["images"])))


def _number(value: Any) -> float:
    """Return a number that a file holds.

    Raises:
      ValueError: It is no number from 0 to `_LARGEST`.
    """
    if not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        raise ValueError(f"expected a number, got {value!r:.60}")
    return float(value)
