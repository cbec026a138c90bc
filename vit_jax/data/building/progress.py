"""What TFDS counts, on one progress line instead of in its bars."""

import contextlib
import threading
import time
import types
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from vit_jax.console.progress import Progress, format_seconds


class Bar:
    """Takes the place of tqdm: shows whatever TFDS counts on the one line."""

    VERBS = types.MappingProxyType(
        {"Dl": "download", "Extraction": "extract", "Generating": "encode", "Shuffling": "write"}
    )
    SILENT = ("url", "splits")
    line: "Line"
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
        self._began = time.monotonic()
        self._count: int | float = 0
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
        """Do nothing: `update` shows the line."""

    def update(self, n: int | float = 1) -> None:
        """Add to the count, and show it when it is time for another line."""
        self._count += n
        if not self._count or self._unit in self.SILENT or not self.line.due():
            return
        rate = self._count / max(time.monotonic() - self._began, 1e-6)
        total = f"/{self.total:,.0f}" if self.total >= self._count else ""
        left = f", ETA {format_seconds((self.total - self._count) / rate)}" if total else ""
        count = f"{self._verb} {self._count:,.0f}{total} {self._unit}"
        self.line.show_text(f"{count}, {rate:,.0f}/s{left}")


class Line(Progress):
    """A progress line without a known end."""

    def __init__(self) -> None:
        super().__init__(0, 0, every_seconds=10.0, label="")
        self._shown = 0.0

    def due(self) -> bool:
        """Return whether it is time for another line; on a terminal, ten times a second."""
        return super().due() and time.monotonic() - self._shown >= 0.1

    def show_text(self, text: str) -> None:
        """Show a line as it is."""
        self._shown = self._last = time.monotonic()
        self._put(text)


@contextlib.contextmanager
def on_one_line() -> Iterator[None]:
    """Show TFDS's progress on one line instead of in its bars."""
    module = tfds.core.utils.tqdm_utils
    tqdm_before = module.tqdm_lib
    active_before = module._active
    Bar.line = Line()
    module.tqdm_lib = types.SimpleNamespace(tqdm=Bar)
    tfds.enable_progress_bar()
    try:
        yield
    finally:
        module.tqdm_lib = tqdm_before
        tfds.display_progress_bar(active_before)
        Bar.line.close()
