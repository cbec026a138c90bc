"""Collect the outputs of a model during an evaluation, as predictions on every host."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from vit_jax.cluster import sharding
from vit_jax.data.sources import Source
from vit_jax.evaluation.predictions import Outputs, Predictions


class Collector:
    """Fetches the outputs of each step while the next step runs, into arrays for all images.

    The rows of the batches are the images of a source in order; see `loader.eval_batches`.

    Args:
      source: The source of the batches.
      replicate: Copies the rows of all devices to each device; it is compiled, see `replicator`.
    """

    def __init__(self, source: Source, replicate: Callable[[Any], Any]) -> None:
        self._source = source
        self._replicate = replicate
        self._pending: Any = None
        self._columns: tuple[np.ndarray, ...] = ()  # labels, logits, features
        self._indices: list[np.ndarray] = []
        self._count = 0  # images so far
        self._rows = 0  # rows so far, of images or padding

    def add(self, outputs: Outputs, batch: Mapping[str, Array]) -> None:
        """Add the outputs for the next batch."""
        rows = self._replicate((batch["mask"], batch["label"], *outputs))
        self._fetch()
        self._pending = rows

    def _fetch(self) -> None:
        """Copy the rows of the last batch that hold an image."""
        if self._pending is None:
            return
        mask, *parts = jax.device_get(self._pending)
        self._pending = None
        (rows,) = np.nonzero(mask)
        if not self._columns:
            shapes = [(len(self._source), *part.shape[1:]) for part in parts]
            self._columns = tuple(map(np.empty, shapes, (np.int32, np.float32, np.float32)))
        stop = self._count + len(rows)
        for column, part in zip(self._columns, parts, strict=True):
            column[self._count : stop] = part[rows]
        self._indices.append(self._rows + rows)
        self._count = stop
        self._rows += len(mask)

    def predictions(self, name: str, loss: str) -> Predictions:
        """Return the predictions for the images, after at least one batch.

        Args:
          name: The label of the result, such as `test`.
          loss: The name of the loss of the model.
        """
        self._fetch()
        source, indices = self._source, np.concatenate(self._indices)
        labels, logits, features = (column[: self._count] for column in self._columns)
        num_classes = logits.shape[-1]
        is_named = len(source.class_names) == num_classes
        return Predictions(
            name=name,
            title=source.title,
            ids=tuple(map(source.describe, indices.tolist())),
            indices=indices,
            labels=labels,
            logits=logits,
            features=features,
            class_names=source.class_names if is_named else tuple(map(str, range(num_classes))),
            loss=loss,
            skipped=len(source) - len(indices),
        )


def replicator(mesh: jax.sharding.Mesh) -> Callable[[Any], Any]:
    """Return a compiled function that copies rows to every device of a mesh."""
    return jax.jit(lambda rows: rows, out_shardings=sharding.replicated(mesh))
