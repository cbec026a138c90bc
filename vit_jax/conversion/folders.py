"""The folder of converted weights: written whole or not at all."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from vit_jax.errors import WorkdirError

# Beside the checkpoint of converted weights: where they came from, and arrays that no model has.
ORIGIN = "origin.json"
CARRIED = "carried.safetensors"


@contextlib.contextmanager
def whole_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, which takes its name at the end.

    Raises:
      WorkdirError: It is there already, or cannot be written.
    """
    if output.exists():
        raise WorkdirError(f"{output}: exists already; give another --output")
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(output)
    except OSError as error:
        problem = f"{output}: cannot be written ({error.strerror or error})"
        raise WorkdirError(problem) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
