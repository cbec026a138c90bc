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

from vit_jax.errors import WorkdirError


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


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once: a reader sees the old one or the new one."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(path)
