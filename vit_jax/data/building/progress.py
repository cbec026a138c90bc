"""The progress that TFDS counts, shown as our own progress instead of its bars."""

import contextlib
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from vit_jax.console.pace import Pace
from vit_jax.console.progress import Progress, format_seconds


class Bar:
    """Replaces tqdm: shows every count of TFDS as our own progress.

    Args:
      iterable: Items to count, if TFDS does not count itself.
      desc: TFDS's description of the count.
      total: The count at the end; None if it is not known.
      unit: The unit of the count.
    """

    VERBS = types.MappingProxyType(
        {"Dl": "download", "Extraction": "extract", "Generating": "encode", "Shuffling": "write"}
    )
    SILENT = ("url", "splits")
    progress: "CountProgress"
    lock = threading.RLock()

    def __init__(
        self,
        iterable: Iterable[Any] = (),
        desc: str = "",
        total: int | float | None = None,
        unit: str = "",
        **_: Any,
    ) -> None:
        self._iterable = iterable
        self._unit = unit.strip()
        self._verb = self.VERBS.get(desc.partition(" ")[0], desc)
        self._count: int | float = 0
        self._pace = Pace()
        self._pace.mark(0, self.progress.now())
        self.total = total or 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @classmethod
    def get_lock(cls) -> contextlib.AbstractContextManager:
        """Return the lock that TFDS holds while it counts in threads."""
        return cls.lock

    def refresh(self) -> None:
        """Do nothing: `update` shows the progress."""

    def update(self, n: int | float = 1) -> None:
        """Add to the count, and show it if the progress is due."""
        self._count += n
        if not self._count or self._unit in self.SILENT or not self.progress.due():
            return
        self._pace.mark(self._count, self.progress.now())
        self.progress.show_count(self._verb, self._count, self.total, self._unit, self._pace)


class CountProgress(Progress):
    """The progress of several counts, one after another."""

    def __init__(self) -> None:
        super().__init__(0, 0, every_seconds=10.0, label="prepare")

    def now(self) -> float:
        """Return the time in seconds."""
        return self._clock()

    def show_count(
        self, verb: str, count: int | float, total: int | float, unit: str, pace: Pace
    ) -> None:
        """Show a count.

        Args:
          verb: What is done with the items, such as `encode`.
          count: Number of items that are done.
          total: Number of items at the end; less than `count` if it is not known.
          unit: What an item is, such as `examples`.
          pace: How fast the items are done.
        """
        is_known = total >= count
        rate = pace.steps_per_second
        eta = "ETA --" if is_known else ""
        if is_known and rate:
            eta = f"ETA {format_seconds((total - count) / rate)}"
        head = f"{verb} {count:,.0f}{f'/{total:,.0f}' if is_known else ''} {unit}"
        parts = [] if rate is None else [f"{rate:,.0f} {unit}/s"]
        self._draw(head, eta, parts, count, total if is_known else None)


@contextlib.contextmanager
def show_progress() -> Iterator[None]:
    """Show the progress that TFDS counts as our own instead of its bars."""
    module = tfds.core.utils.tqdm_utils
    tqdm_before = module.tqdm_lib
    active_before = module._active
    Bar.progress = CountProgress()
    module.tqdm_lib = types.SimpleNamespace(tqdm=Bar)
    tfds.enable_progress_bar()
    try:
        yield
    finally:
        module.tqdm_lib = tqdm_before
        tfds.display_progress_bar(active_before)
        Bar.progress.close()
