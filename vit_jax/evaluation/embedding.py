"""Embeddings: features of the images of a source by one layer of a model, and their file."""

from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from vit_jax import config as config_lib
from vit_jax.checkpoints import pretrained
from vit_jax.cluster import sharding
from vit_jax.console.tables import read_table, write_table
from vit_jax.data.sources import Source
from vit_jax.errors import DataError
from vit_jax.evaluation import fingerprints
from vit_jax.evaluation.pooling import choose_features
from vit_jax.evaluation.rows import PerImage

COLUMNS = ("ids", "indices", "features")  # of the file; images with labels have `labels`, too


class Embedding(NamedTuple):
    """The features of n images, and what they depend on."""

    features: Float[np.ndarray, "n ..."]  # float32: a vector, or (tokens, width) for each image
    ids: tuple[str, ...]  # of the images, such as their paths
    indices: Int[np.ndarray, " n"]  # of the images in the source, increasing
    labels: Int[np.ndarray, " n"] | None  # None for images without labels
    class_names: tuple[str, ...]  # of the labels
    facts: dict[str, Any]  # plain JSON: layer, pool, grid, step, weights, model, data, skipped


class SourceEmbedder:
    """Embeds the images of sources: each readable image once, in order; compiled once.

    The values have the same bytes on any number of devices; see `rows.PerImage`.

    Args:
      trained: The model and its variables.
      config: Its config, with the preprocessing.
      mesh: The device mesh.
      layer: Path of a submodule such as `blocks_5`; by default the pooled features.
      pool: `cls`, `mean`, `tokens` or, by default, the pool of the model; see `choose_features`.

    Raises:
      ConfigError: There is no such layer or pool, or the layer has no such tokens.
    """

    def __init__(
        self,
        trained: pretrained.Trained,
        config: config_lib.Config,
        mesh: jax.sharding.Mesh,
        layer: str = "",
        pool: str = "",
    ) -> None:
        chosen = choose_features(trained.model, config.data.image_shape, layer, pool)
        self.features = chosen
        self._per_image = PerImage(chosen, config.data, mesh)
        self._variables = jax.device_put(trained.variables, sharding.replicated(mesh))
        self._facts = {
            "layer": chosen.layer,
            "pool": chosen.pool,
            "grid": chosen.grid and chosen.grid._asdict(),
            "step": trained.step,
            "weights": trained.weights,
            "model": fingerprints.of_model(config, self._variables),
        }

    def __call__(self, source: Source, *, labelled: bool = True) -> Embedding:
        """Return the embedding of a source; it is the same on every host.

        Args:
          source: The images.
          labelled: Whether the images have labels.

        Raises:
          ConfigError: A device has too little memory.
          DataError: More images are unreadable than the config allows, or there is no other.
        """
        rows = self._per_image(self._variables, source)
        facts = {
            "data": fingerprints.of_images(source),
            "skipped": {source.describe(i): reason for i, reason in rows.skipped.items()},
        }
        return Embedding(
            features=rows.values["features"],
            ids=tuple(source.describe(i) for i in rows.indices.tolist()),
            indices=rows.indices,
            labels=rows.labels if labelled else None,
            class_names=source.class_names if labelled else (),
            facts={**self._facts, **facts},
        )


def write_embedding(
    path: epath.Path, embedding: Embedding, *, flag: str = "write_embedding"
) -> None:
    """Write an embedding as a table, on the first process (host) only; see `tables.write_table`."""
    columns = {name: getattr(embedding, name) for name in COLUMNS}
    if embedding.labels is not None:
        columns["labels"] = embedding.labels
    metadata = {**embedding.facts, "class_names": embedding.class_names}
    write_table(path, columns, metadata, flag=flag)


def read_embedding(path: epath.Path) -> Embedding:
    """Read an embedding that `write_embedding` wrote.

    Raises:
      InputMissingError: There is no such file.
      DataError: The file is corrupt, or holds another table.
    """
    columns, metadata = read_table(path)
    if missing := [name for name in COLUMNS if name not in columns]:
        raise DataError(f"{path}: expected an embedding, found no {', '.join(missing)}")
    class_names = tuple(metadata.pop("class_names", ()))
    ids = tuple(columns["ids"].tolist())
    return Embedding(
        columns["features"], ids, columns["indices"], columns.get("labels"), class_names, metadata
    )
