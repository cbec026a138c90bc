"""The folder of converted weights: what is in it, and how it is written whole or not at all."""

import contextlib
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from vit_jax.errors import WorkdirError

# Beside the checkpoint of converted weights: where they came from, and tensors of the file that our
# model does not have.
ORIGIN = "origin.json"
EXTRA_TENSORS = "extra_tensors.safetensors"


@contextlib.contextmanager
def whole_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary folder to write to, which is renamed to `output` at the end.

    Raises:
      WorkdirError: The output exists already, or cannot be written.
    """
    if output.exists():
        raise WorkdirError(f"{output}: exists already; give another --output")
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
