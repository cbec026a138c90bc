"""The stream of batches, a pure function of (seed, step).

A batch is cut from the infinite shuffled stream before it is divided among hosts, so that its rows
and their random numbers are the same for any number of hosts, workers and threads. No iterator
state needs to be saved: a resumed run starts the stream at its step.

An unreadable image is reported once and counted. In training the next one in the data set takes its
place; in an evaluation it is left out.
"""

import gc
import math
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
    """An iterator of batches that records which images could not be read.

    Args:
      stream: Batches with a column `unreadable`: indices of the source, or -1.
      reader: The reader of the images.
      tolerance: The fraction of the data set that may be unreadable; one image always may.
      report: Called with a line for each unreadable image, once.

    Raises:
      DataError: Too many images are unreadable.
    """

    def __init__(
        self,
        stream: grain.DatasetIterator[Batch],
        reader: Reader,
        tolerance: float,
        report: Callable[[str], None],
    ) -> None:
        self._stream: Iterator[Batch] = stream
        self._close = stream.close
        self._shared_arrays: set[type] = set()  # Grain's, where workers read
        self._reader = reader
        self._report = report
        self._max_unreadable = max(1, int(tolerance * len(reader.source)))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        # From workers come views of shared memory, which must not live on in whoever keeps a batch:
        # what is left of it at the end is a leak.
        batch = next(self._stream)
        self._shared_arrays.update({type(rows) for rows in batch.values()} - {np.ndarray})
        batch = {
            key: rows if type(rows) is np.ndarray else np.array(rows) for key, rows in batch.items()
        }
        for index in batch.pop("unreadable"):
            if index >= 0 and index not in self._reader.source.unreadable:
                self._note(int(index))
        return batch

    def close(self) -> None:
        """Stop the threads and processes that read."""
        self._close()
        # What was read ahead lives as long as the stream, and Grain removes it in a thread; an exit
        # before that leaves it behind.
        self._stream = iter(())
        self._close = lambda: None
        if self._shared_arrays:
            gc.collect()  # the stream refers to itself
        for shared in self._shared_arrays:
            if removing := getattr(shared, "_del_thread_pool", None):
                removing.apply(int)  # after all that is waiting

    def _note(self, index: int) -> None:
        source = self._reader.source
        reason = self._reader.problem(index)
        source.unreadable[index] = reason
        line = f"{source.describe(index)}: cannot be read: {reason}"
        count = len(source.unreadable)
        if count > self._max_unreadable:
            problem = f"{count} of the {len(source):,} images cannot be read"
            limit = f"more than {self._max_unreadable:,}"
            raise DataError(f"{source.name}: {problem}, {limit}; the last is {line}")
        self._report(line)


ENDLESS = 2**62  # images; Grain's own end, sys.maxsize, overflows where a batch is one image


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
    """Yield this host's rows of each batch, without end: `{"image": uint8, "label": int32}`.

    Every image comes once per epoch; the order and the random transforms change with each epoch.
    With `data.repeats` above 1 an image comes that many times in a row, transformed anew each time,
    and an epoch, as long as before, holds that many times fewer images (Hoffer et al. 2020).

    Args:
      source: The images.
      data: How to transform them, and with how many threads.
      batch_size: The number of rows of the global batch.
      seed: Seeds the order and the random transforms.
      step: How many batches to skip at the start.
      host: Which shard of each batch to read, from 0; see `sharding.batch_shard`.
      num_hosts: The number of shards.
    """
    reader = Reader(source, transforms.for_training(data))
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    order = order.repeat(ENDLESS // len(source))
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
    """Yield this host's rows of the batches that hold every image once, in order.

    Rows whose `mask` is False hold no image: the padding of the last batch, and the rows of
    unreadable images, each of which is passed to `report` as a line.
    """
    reader = Reader(source, transforms.for_evaluation(data), data.image_size)
    num_batches = math.ceil(len(source) / batch_size)
    order = grain.MapDataset.range(num_batches * batch_size)
    stream = _read(order.map(reader.evaluate), data, batch_size, 0, host, num_hosts)
    return Batches(stream, reader, data.max_unreadable, report)


def _ignore_signals(worker: int, num_workers: int) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the training process."""
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
    # Every n-th block of B/n rows, from the h-th: rows [hB/n, (h+1)B/n) of each batch for host h.
    batches = rows.batch(batch_size // num_hosts)[host::num_hosts][step:]
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.threads)
    stream = batches.to_iter_dataset(reading)
    if data.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers ask for absl's own flags
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        stream = stream.mp_prefetch(options, worker_init_fn=_ignore_signals)
    return iter(stream)
