"""The pace of a task: how long its steps take, without compilation and other pauses."""

import math


class Pace:
    """An average over recent steps of how long a step takes.

    The average covers the time between two marks. The time before the first mark is left out, and
    so is the time from a pause to the next mark: compilation, an evaluation or a save is no part of
    the time of a step.
    """

    # Seconds after which a step counts 1/e times as much as the newest one.
    MEMORY = 30.0

    def __init__(self) -> None:
        self._base: tuple[int | float, float] | None = None  # step and time of the last mark
        self._steps = 0.0
        self._seconds = 0.0
        self._waited = 0.0

    def mark(self, step: int | float, now: float, waited: float = 0.0) -> None:
        """Record that a step is done.

        Args:
          step: Number of steps that are done; a mark at the same step as before has no effect.
          now: Time in seconds.
          waited: Seconds since the last mark that were spent waiting for data.
        """
        if self._base is not None:
            before, then = self._base
            if step <= before:
                return
            kept = math.exp(-(now - then) / self.MEMORY)
            self._steps = kept * self._steps + step - before
            self._seconds = kept * self._seconds + now - then
            self._waited = kept * self._waited + waited
        self._base = step, now

    def pause(self) -> None:
        """Leave out the time from the last mark to the next one."""
        self._base = None

    @property
    def steps_per_second(self) -> float | None:
        """Steps per second; None until two steps in a row were marked."""
        return self._steps / self._seconds if self._seconds > 0 else None

    @property
    def waiting_share(self) -> float:
        """The share of the time that was spent waiting for data, from 0 to 1."""
        return self._waited / self._seconds if self._seconds > 0 else 0.0
