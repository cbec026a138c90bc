"""The stream of batches, a pure function of (seed, step).

A batch is cut from the endless shuffled stream before hosts share it, so that its rows and their
random draws are the same for any number of hosts, workers and threads. Nothing of an iterator
needs to be saved: a resumed run starts the stream at its step.

An image that cannot be read is named once and counted. In training the next one in the data set
takes its place; in an evaluation it is left out.
"""

import signal
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from vit_jax import config as config_lib
from vit_jax.console.progress import warn
from vit_jax.data import transforms
from vit_jax.data.reader import Reader
from vit_jax.data.sources import Source
from vit_jax.errors import DataError

Batch = dict[str, np.ndarray]


class Batches:
    """An iterator of batches, which takes note of the images that could not be read.

    Args:
      stream: Batches with a column `unreadable`: indices of the source, or -1.
      reader: What reads the images.
      tolerance: The share of the data set that may be unreadable; one image always may.
      report: Called with a line for each unreadable image, once.

    Raises:
      DataError: Too many images cannot be read.
    """

    def __init__(
        self,
        stream: grain.DatasetIterator[Batch],
        reader: Reader,
        tolerance: float,
        report: Callable[[str], None],
    ) -> None:
        self._stream, self._reader, self._report = stream, reader, report
        self._most = max(1, int(tolerance * len(reader.source)))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = dict(next(self._stream))
        for index in batch.pop("unreadable"):
            if index >= 0 and index not in self._reader.source.unreadable:
                self._note(int(index))
        return batch

    def close(self) -> None:
        """Ends the threads and processes that read."""
        self._stream.close()

    def _note(self, index: int) -> None:
        source = self._reader.source
        reason = source.unreadable[index] = self._reader.problem(index)
        line = f"{source.describe(index)}: cannot be read: {reason}"
        if len(source.unreadable) > self._most:
            found = f"{len(source.unreadable)} of the {len(source):,} images cannot be read"
            raise DataError(f"{source.name}: {found}, more than {self._most:,}; the last is {line}")
        self._report(line)


def train_batches(
    source: Source,
    data: config_lib.Data,
    batch_size: int,
    *,
    seed: int,
    step: int = 0,
    host: int = 0,
    num_hosts: int = 1,
) -> Batches:
    """Yields this host's rows of each batch, for ever: `{"image": uint8, "label": int32}`.

    Every image comes once an epoch; the order and the random transforms change with each epoch.
    With `data.repeats` above 1 an image comes that many times in a row, transformed anew each time,
    and an epoch, as long as before, holds that many times fewer images (Hoffer et al. 2020).

    Args:
      source: The images.
      data: How to transform them, and with how many threads.
      batch_size: Rows of the global batch.
      seed: Of the order and of the random transforms.
      step: Batches to leave out at the start.
      host: Which share of each batch this host reads, of `num_hosts`; see `sharding.batch_shard`.
      num_hosts: Number of shares.
    """
    reader = Reader(source, transforms.for_training(data))
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    if data.repeats > 1:
        once = order
        order = grain.MapDataset.range(len(once)).seed(seed).map(lambda i: once[i // data.repeats])
    stream = _read(order.random_map(reader.train), data, batch_size, step, host, num_hosts)
    return Batches(stream, reader, data.max_unreadable, warn)


def eval_batches(
    source: Source,
    data: config_lib.Data,
    batch_size: int,
    *,
    host: int = 0,
    num_hosts: int = 1,
    report: Callable[[str], None] = warn,
) -> Batches:
    """Yields this host's rows of the batches that hold every image once, in order.

    Rows whose `mask` is False hold no image: those that fill up the last batch, and those of
    unreadable images, of which `report` gets a line each.
    """
    reader = Reader(source, transforms.for_evaluation(data), data.image_size)
    order = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size)
    stream = _read(order.map(reader.evaluate), data, batch_size, 0, host, num_hosts)
    return Batches(stream, reader, data.max_unreadable, report)


def _ignore_signals(worker: int, num_workers: int) -> None:
    """Leaves Ctrl-C, which a terminal sends to every process, to the training process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _read(
    rows: grain.MapDataset,
    data: config_lib.Data,
    batch_size: int,
    step: int,
    host: int,
    num_hosts: int,
) -> grain.DatasetIterator[Batch]:
    # Blocks of B/n rows, every n-th from h on: host h reads rows [hB/n, (h+1)B/n) of each batch.
    batches = rows.batch(batch_size // num_hosts)[host::num_hosts][step:]
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.threads)
    stream = batches.to_iter_dataset(reading)
    if data.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers ask for absl's own flags
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        stream = stream.mp_prefetch(options, worker_init_fn=_ignore_signals)
    return iter(stream)
