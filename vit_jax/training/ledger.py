"""Where the time of a run goes: every second is booked on exactly one part.

An attempt is one process that works on a run. When a run resumes from a checkpoint, what earlier
attempts spent on the way to that checkpoint is kept. All else is lost: what they did after the
checkpoint, and their starts and compilations, which the new attempt repeats. So the parts without
`lost` are what a run that is never restarted would have spent.
"""

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

# The parts, and their names for the user.
PARTS = {
    "start": "start",
    "compile": "compile",
    "steps": "steps",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "saving": "saving",
    "lost": "lost to restarts",
}

# The parts that lead to a checkpoint.
_KEPT = ("steps", "data", "evaluation", "saving")

# The number of newest checkpoints whose accounts are kept.
_NUM_CHECKPOINTS = 32


@dataclasses.dataclass(frozen=True)
class Account:
    """Seconds by part, and the number of images of the steps."""

    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)  # 0 if missing
    images: int = 0

    @property
    def total(self) -> float:
        """The seconds of all parts."""
        return math.fsum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the time that was spent in steps, from 0 to 1."""
        return self.seconds.get("steps", 0.0) / self.total if self.total else 0.0

    @property
    def train_seconds(self) -> float:
        """The seconds of the steps and of waiting for their data."""
        return self.seconds.get("steps", 0.0) + self.seconds.get("data", 0.0)

    @property
    def images_per_second(self) -> float:
        """The images of the steps per second of `train_seconds`."""
        return self.images / self.train_seconds if self.train_seconds else 0.0

    def __add__(self, other: "Account") -> "Account":
        seconds = {
            part: self.seconds.get(part, 0.0) + other.seconds.get(part, 0.0) for part in PARTS
        }
        return Account(seconds, self.images + other.images)


@dataclasses.dataclass(frozen=True)
class History:
    """The attempts at a run."""

    account: Account = Account()
    attempts: int = 0
    between: float = 0.0  # seconds from the end of an attempt to the start of the next one
    checkpoints: Mapping[int, Account] = dataclasses.field(default_factory=dict)  # by step

    def resumed_from(self, step: int, between: float) -> "History":
        """Return the history for a further attempt.

        Args:
          step: The step of the checkpoint that it starts from; 0 without a checkpoint. If this one
            has no account, that of the checkpoint before it is taken.
          between: Seconds since the last attempt ended.
        """
        checkpoints = {key: value for key, value in self.checkpoints.items() if key <= step}
        last = checkpoints[max(checkpoints)] if checkpoints else Account()
        kept = {part: last.seconds.get(part, 0.0) for part in _KEPT}
        lost = max(0.0, self.account.total - math.fsum(kept.values()))
        account = Account({**kept, "lost": lost}, last.images)
        between = self.between + (between if self.attempts else 0.0)
        return History(account, self.attempts + 1, between, checkpoints)


class Ledger:
    """Books the time of this attempt: on `start`, until told otherwise.

    Args:
      age: Seconds since the attempt began.
      clock: Returns the time in seconds.
    """

    def __init__(self, age: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.compile_seconds: dict[str, float] = {}  # by program
        self.saved = threading.Event()  # set when a checkpoint is booked
        self._clock = clock
        self._lock = threading.Lock()  # of all that follows
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._images = 0
        self._part = "start"
        self._since = clock() - age
        self._before = History(attempts=1)

    @contextlib.contextmanager
    def book(self, part: str) -> Iterator[None]:
        """Book the time of the block on a part; a block within it may take another part."""
        before = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(before)

    @contextlib.contextmanager
    def compiling(self, program: str) -> Iterator[None]:
        """Book the time of the block on `compile`, and on the program that is compiled."""
        began = self._clock()
        with self.book("compile"):
            yield
        spent = self.compile_seconds.get(program, 0.0) + self._clock() - began
        self.compile_seconds[program] = spent

    def move(self, source: str, target: str, seconds: float) -> None:
        """Move time that is booked already to another part."""
        with self._lock:
            self._settle()
            self._seconds[source] -= seconds
            self._seconds[target] += seconds

    def count(self, images: int) -> None:
        """Count the images of a step."""
        with self._lock:
            self._images += images

    def resume(self, history: History, step: int, between: float) -> None:
        """Go on with a run; see `History.resumed_from`."""
        self._before = history.resumed_from(step, between)

    def checkpoint(self, step: int) -> None:
        """Keep the account as that of the checkpoint of a step."""
        account = self.history().account
        newest = sorted({**self._before.checkpoints, step: account}.items())[-_NUM_CHECKPOINTS:]
        self._before = dataclasses.replace(self._before, checkpoints=dict(newest))
        self.saved.set()

    def history(self) -> History:
        """Return all attempts at the run, this one included."""
        with self._lock:
            self._settle()
            own = Account(dict(self._seconds), self._images)
        return dataclasses.replace(self._before, account=self._before.account + own)

    def _turn_to(self, part: str) -> str:
        """Book the time until now on the current part, and return that part."""
        with self._lock:
            self._settle()
            before = self._part
            self._part = part
        return before

    def _settle(self) -> None:
        now = self._clock()
        self._seconds[self._part] += now - self._since
        self._since = now
