"""Make weights readable for their own library: one set, under the bare names, in one file."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator

from vit_jax.weights import files
from vit_jax.weights.folder import open_weights


@contextlib.contextmanager
def plain_copy(path: pathlib.Path, weights: str) -> Iterator[pathlib.Path]:
    """Yield a path from which the library reads the same weights as we do.

    This is `path` itself, or a temporary copy if a set was chosen or a prefix removed.

    Args:
      path: A file or a folder.
      weights: `ema` or `raw`, if the path has both. An empty string prefers the EMA.
    """
    file, documents = open_weights(path, weights)
    with file, tempfile.TemporaryDirectory() as folder:
        if not file.notes:  # neither a choice nor a removed prefix
            yield path
            return
        copy = pathlib.Path(folder)
        files.write_file(copy / "model.safetensors", file.headers, file.read)
        for name, document in documents.items():
            (copy / name).write_text(json.dumps(document))
        yield copy
