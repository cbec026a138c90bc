"""The folder of converted weights: its files, and how to write it atomically."""

import contextlib
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from vit_jax.errors import WorkdirError

# Files beside the checkpoint of imported weights: their origin, and the tensors of the original
# file that our model does not have.
ORIGIN = "origin.json"
EXTRA_TENSORS = "extra_tensors.safetensors"


@contextlib.contextmanager
def atomic_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary folder to write to, and rename it to `output` at the end.

    Args:
      output: The folder to create.

    Raises:
      WorkdirError: The output exists already, or cannot be written.
    """
    if output.exists():
        raise WorkdirError(f"{output}: already exists; give another --output")
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(output)
    except OSError as error:
        problem = f"{output}: cannot be written ({error.strerror or error})"
        raise WorkdirError(problem) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
