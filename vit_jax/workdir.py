"""The work directory of a run: who may write it, and files written whole or not at all."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from vit_jax.errors import ConfigError, WorkdirError


def is_local(path: epath.Path) -> bool:
    """Returns whether a path is in the local file system."""
    return "://" not in str(path)


@contextlib.contextmanager
def lock(workdir: epath.Path) -> Iterator[None]:
    """Holds a work directory, so that a second run cannot write into it.

    Raises:
      WorkdirError: It cannot be written, or a live process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        locks = is_local(workdir) and jax.process_index() == 0
        file = open(workdir / ".lock" if locks else os.devnull, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        problem = error.strerror or error
        raise WorkdirError(
            f"--workdir: cannot write {workdir} ({problem}); give another"
        ) from error
    with file:
        if not locks:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read() or "another process"
            raise WorkdirError(f"--workdir: {owner} is training in {workdir}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def open_path(text: str, flag: str) -> epath.Path:
    """Returns the path that a flag gives, local or in an object store.

    Raises:
      ConfigError: The extra for that object store is not installed.
    """
    path = epath.Path(text)
    try:
        path.exists()
    except ImportError as error:
        hint = "pip install 'vit_jax[gcs]' adds gs:// paths"
        raise ConfigError(flag, f"cannot reach {text}: {error}; {hint}") from error
    return path


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file; only the first process does."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file at once: whatever happens, a reader sees the old one or the new one."""
    temporary = path.parent / f".{path.name}.tmp"
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        if is_local(path):
            os.fsync(file.fileno())
    temporary.replace(path)
