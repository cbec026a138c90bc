"""Weights as their library itself reads them: one set, under its names, in one file."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator

from vit_jax.weights import files
from vit_jax.weights.folder import open_weights


@contextlib.contextmanager
def plain_copy(path: pathlib.Path, weights: str) -> Iterator[pathlib.Path]:
    """Yield a path that the library reads as we do: the same, or of a temporary copy.

    Args:
      path: A file or a folder.
      weights: `ema` or `raw`, where there are both; the average if empty.
    """
    file, documents = open_weights(path, weights)
    with file, tempfile.TemporaryDirectory() as folder:
        if not file.notes:  # nothing was chosen or left off
            yield path
            return
        copy = pathlib.Path(folder)
        files.write_file(copy / "model.safetensors", file.headers, file.read)
        for name, document in documents.items():
            (copy / name).write_text(json.dumps(document))
        yield copy
