"""The work directory of a run: who may write it, and files written whole or not at all."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
from etils import epath

from vit_jax.cluster import hosts
from vit_jax.console.text import to_json
from vit_jax.errors import ConfigError, WorkdirError


def is_local(path: epath.Path) -> bool:
    """Return whether a path is in the local file system."""
    return "://" not in str(path)


@contextlib.contextmanager
def lock(workdir: epath.Path) -> Iterator[None]:
    """Hold a work directory, so that a second run cannot write into it.

    Raises:
      ConfigError: Its path is one that Orbax cannot save to.
      WorkdirError: It cannot be written, or a live process holds it.
    """
    if is_local(workdir) and (found := set(str(workdir.absolute())) & set("[]\\")):
        problem = f"Orbax takes {' '.join(sorted(found))} in a path for a pattern"
        raise ConfigError("--workdir", f"{problem}; give another than {workdir.absolute()}")
    with hosts.run_and_compare(lambda: _hold(workdir)):
        yield


def owner(workdir: epath.Path) -> str:
    """Return who holds a local work directory, or held it last."""
    path = workdir / ".lock"
    return path.read_text() if is_local(workdir) and path.exists() else ""


def _hold(workdir: epath.Path) -> TextIO:
    """Return the file that is held open; only the first process holds the directory."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        locks = is_local(workdir) and jax.process_index() == 0
        path = workdir / ".lock" if locks else os.devnull
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = open(os.open(path, flags, 0o666), "a+")  # noqa: SIM115 - by `lock`
    except OSError as error:
        problem = error.strerror or error
        raise WorkdirError(
            f"--workdir: cannot write {workdir} ({problem}); give another"
        ) from error
    if not locks:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with file:
            file.seek(0)
            holder = file.read() or "another process"
        raise WorkdirError(f"--workdir: {holder} is training in {workdir}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    os.fsync(file.fileno())  # the other hosts look for it
    return file


def open_path(text: str, flag: str) -> epath.Path:
    """Return the path that a flag gives, local or in an object store; `~` is the home directory.

    Raises:
      ConfigError: The extra for that object store is not installed, or there is no such kind.
    """
    try:
        path = epath.Path(os.path.expanduser(text))
        if str(path).startswith("~"):  # else a folder of that name would be made
            raise ConfigError(flag, f"no home directory of {path.parts[0]}")
        path.exists()
    except ImportError as error:
        hint = "pip install 'vit_jax[gcs]' adds gs:// paths"
        raise ConfigError(flag, f"cannot reach {text}: {error}; {hint}") from error
    except KeyError as error:
        raise ConfigError(flag, f"expected a local or a gs:// path, got {text}") from error
    return path


def local_path(text: str, flag: str) -> pathlib.Path:
    """Return the path that a flag gives, which must be local; `~` is the home directory.

    Raises:
      ConfigError: It is in an object store.
    """
    if "://" in text:
        raise ConfigError(flag, f"expected a local path, got {text}")
    return pathlib.Path(os.path.expanduser(text))


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file; only the first process does."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(content, indent=2) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Write a file at once: whatever happens, a reader sees the old one or the new one."""
    temporary = path.parent / f".{path.name}.tmp"
    if is_local(path):  # a new file, wherever a link of that name leads
        temporary.unlink(missing_ok=True)
    with open(temporary, "x") if is_local(path) else temporary.open("w") as file:
        file.write(text)
        file.flush()
        if is_local(path):
            os.fsync(file.fileno())
    temporary.replace(path)
