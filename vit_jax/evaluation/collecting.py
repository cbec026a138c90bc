"""Collect the outputs of a model during an evaluation, as predictions on every host."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from vit_jax.cluster import sharding
from vit_jax.data.sources import Source
from vit_jax.evaluation.predictions import Outputs, Predictions


class Collector:
    """Fetches the outputs of each step while the next step runs.

    The rows of the batches are the images of a source in order; see `loader.eval_batches`.

    Args:
      mesh: The device mesh.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self._replicate = jax.jit(lambda rows: rows, out_shardings=sharding.replicated(mesh))
        self._pending: Any = None
        self._fetched: list[tuple[np.ndarray, ...]] = []

    def add(self, outputs: Outputs, batch: Mapping[str, Array]) -> None:
        """Add the outputs for the next batch."""
        rows = self._replicate((batch["mask"], batch["label"], *outputs))
        self._fetch()
        self._pending = rows

    def _fetch(self) -> None:
        if self._pending is not None:
            self._fetched.append(jax.device_get(self._pending))
            self._pending = None

    def predictions(self, source: Source, name: str, loss: str) -> Predictions:
        """Return the predictions for the images of the source; there must be one at least.

        Args:
          source: The source of the batches.
          name: The label of the result, such as `test`.
          loss: The name of the loss of the model.
        """
        self._fetch()
        columns = zip(*self._fetched, strict=True)
        mask, labels, logits, features = (np.concatenate(column) for column in columns)
        (indices,) = np.nonzero(mask)
        num_classes = logits.shape[-1]
        is_named = len(source.class_names) == num_classes
        return Predictions(
            name=name,
            title=source.title,
            ids=tuple(map(source.describe, indices.tolist())),
            indices=indices,
            labels=labels[indices],
            logits=logits[indices].astype(np.float32),
            features=features[indices].astype(np.float32),
            class_names=source.class_names if is_named else tuple(map(str, range(num_classes))),
            loss=loss,
            skipped=len(source) - len(indices),
        )
