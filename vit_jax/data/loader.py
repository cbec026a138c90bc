"""The stream of batches, a pure function of (seed, step).

A batch is cut from the endless shuffled stream before hosts share it, so that its rows and their
random draws are the same for any number of hosts, workers and threads. Nothing of an iterator
needs to be saved: a resumed run starts the stream at its step.
"""

import signal
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from vit_jax import config as config_lib
from vit_jax.data import transforms
from vit_jax.data.sources import Record, Source

Batch = dict[str, np.ndarray]


def train_batches(
    source: Source,
    data: config_lib.Data,
    batch_size: int,
    *,
    seed: int,
    step: int = 0,
    host: int | None = None,
    num_hosts: int | None = None,
) -> grain.DatasetIterator[Batch]:
    """Yields this host's rows of each batch, for ever: `{"image": uint8, "label": int32}`.

    Every image comes once an epoch; the order and the random transforms change with each epoch.

    Args:
      source: The images.
      data: How to transform them, and with how many threads.
      batch_size: Rows of the global batch.
      seed: Of the order and of the random transforms.
      step: Batches to leave out at the start.
      host: Index of this host, of `num_hosts`; asked of JAX unless given.
      num_hosts: Number of hosts.
    """
    pipeline = transforms.for_training(data, len(source.class_names))
    stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(pipeline)
    return _read(stream, data, batch_size, step, host, num_hosts)


def eval_batches(
    source: Source,
    data: config_lib.Data,
    batch_size: int,
    *,
    host: int | None = None,
    num_hosts: int | None = None,
) -> grain.DatasetIterator[Batch]:
    """Yields this host's rows of the batches that hold every image once, in order.

    The last batch is filled up with rows whose `mask` is False.
    """
    pipeline = transforms.for_evaluation(data, len(source.class_names))
    length = -(-len(source) // batch_size) * batch_size
    padded = _Padded(source, pipeline, length)
    return _read(grain.MapDataset.source(padded), data, batch_size, 0, host, num_hosts)


class _Padded:
    """The transformed images of a source with a mask, and blank rows after them."""

    def __init__(self, source: Source, pipeline: transforms.Pipeline, length: int) -> None:
        self._source, self._pipeline, self._length = source, pipeline, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        real = index < len(self._source)
        record: Record = self._source[index if real else 0]
        row = self._pipeline(record, np.random.default_rng(0))
        return {**row, "mask": np.bool_(real)}


def _ignore_signals(worker: int, num_workers: int) -> None:
    """Leaves Ctrl-C, which a terminal sends to every process, to the training process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _read(
    rows: grain.MapDataset,
    data: config_lib.Data,
    batch_size: int,
    step: int,
    host: int | None,
    num_hosts: int | None,
) -> grain.DatasetIterator[Batch]:
    host = jax.process_index() if host is None else host
    num_hosts = jax.process_count() if num_hosts is None else num_hosts
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
