"""The stream of batches: a pure function of (seed, step).

The stream of shuffled images is cut into global batches first, and each batch is then divided among
the hosts. So the rows and their random numbers do not depend on the number of hosts, workers and
threads. No iterator state is saved: a resumed run starts the stream at its step.

Each unreadable image is reported once and counted. In training, the next image of the data set is
used instead; in evaluation, the image is skipped.
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
    """An iterator over batches that records unreadable images.

    Args:
      stream: The batches. Their column `unreadable` has source indices, or -1.
      reader: The reader that makes the rows.
      tolerance: Maximum fraction of unreadable images; one is always tolerated.
      report: Called once with a message for each unreadable image.

    Raises:
      DataError: More images are unreadable than `tolerance` allows.
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
        self._shared_arrays: set[type] = set()  # Grain's array types, with workers
        self._reader = reader
        self._report = report
        self._max_unreadable = max(1, int(tolerance * len(reader.source)))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        # Workers return views of shared memory. Copy them: a view that a caller keeps would leak
        # the shared memory at exit.
        batch = next(self._stream)
        self._shared_arrays.update({type(rows) for rows in batch.values()} - {np.ndarray})
        batch = {
            key: rows if type(rows) is np.ndarray else np.array(rows) for key, rows in batch.items()
        }
        for index in batch.pop("unreadable"):
            if index >= 0 and index not in self._reader.source.unreadable:
                self._record_unreadable(int(index))
        return batch

    def close(self) -> None:
        """Stop the reading threads and processes."""
        self._close()
        # Prefetched batches live as long as the stream. Grain frees their shared memory in a
        # thread, which must finish before the process exits.
        self._stream = iter(())
        self._close = lambda: None
        if self._shared_arrays:
            gc.collect()  # the stream is part of a reference cycle
        for shared in self._shared_arrays:
            if removing := getattr(shared, "_del_thread_pool", None):
                removing.apply(int)  # returns when all queued work is done

    def _record_unreadable(self, index: int) -> None:
        source = self._reader.source
        reason = self._reader.problem(index)
        source.unreadable[index] = reason
        line = f"{source.describe(index)}: cannot be read: {reason}"
        count = len(source.unreadable)
        if count > self._max_unreadable:
            problem = f"{count} of the {len(source):,} images cannot be read"
            limit = f"more than {self._max_unreadable:,}"
            raise DataError(f"{source.title}: {problem}, {limit}; the last is {line}")
        self._report(line)


# Length of the training stream in images. Grain's own limit, sys.maxsize, overflows for batches of
# one.
MAX_ROWS = 2**62


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
    """Return an endless iterator over this host's rows of each training batch.

    A batch is `{"image": uint8 (rows, h, w, c), "label": int32 (rows,)}`. Every image is used once
    per epoch; the order and the random transforms differ between epochs. If `data.repeats` is r >
    1, each image is used r times in succession with different random transforms, and an epoch of
    the same length has 1/r of the images (repeated augmentation, Hoffer et al. 2020).

    Args:
      source: The images.
      data: The data section of the config: transforms, threads and workers.
      batch_size: Number of rows of the global batch.
      seed: Seed of the order and of the random transforms.
      step: Number of batches to skip at the start.
      host: Index of the shard of each batch to read, from 0; see `sharding.batch_shard`.
      num_hosts: Number of shards.
    """
    reader = Reader(source, transforms.for_training(data))
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    order = order.repeat(MAX_ROWS // len(source))
    if data.repeats > 1:
        single_pass = order
        order = (
            grain.MapDataset.range(len(single_pass))
            .seed(seed)
            .map(lambda i: single_pass[i // data.repeats])
        )
    stream = _iterate(order.random_map(reader.train), data, batch_size, step, host, num_hosts)
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
    """Return an iterator over this host's rows of the evaluation batches.

    The batches have every image once, in order: `{"image": uint8 (rows, h, w, c), "label": int32
    (rows,), "mask": bool (rows,)}`. The mask is False for rows without an image: the padding of the
    last batch, and unreadable images.

    Args:
      source: The images.
      data: The data section of the config: transforms, threads and workers.
      batch_size: Number of rows of the global batch.
      host: Index of the shard of each batch to read, from 0; see `sharding.batch_shard`.
      num_hosts: Number of shards.
      report: Called once with a message for each unreadable image.
    """
    reader = Reader(source, transforms.for_evaluation(data), data.image_size)
    num_batches = math.ceil(len(source) / batch_size)
    order = grain.MapDataset.range(num_batches * batch_size)
    stream = _iterate(order.map(reader.evaluate), data, batch_size, 0, host, num_hosts)
    return Batches(stream, reader, data.max_unreadable, report)


def _ignore_signals(worker: int, num_workers: int) -> None:
    """Ignore SIGINT and SIGTERM in a worker; the training process handles them and stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _iterate(
    rows: grain.MapDataset,
    data: config_lib.Data,
    batch_size: int,
    step: int,
    host: int,
    num_hosts: int,
) -> grain.DatasetIterator[Batch]:
    # Host h of n takes the rows [h B / n, (h + 1) B / n) of each global batch of B rows.
    batches = rows.batch(batch_size // num_hosts)[host::num_hosts][step:]
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.threads)
    stream = batches.to_iter_dataset(reading)
    if data.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl's global flags
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        stream = stream.mp_prefetch(options, worker_init_fn=_ignore_signals)
    return iter(stream)
