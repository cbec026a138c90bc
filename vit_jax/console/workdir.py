"""The work directory of a run: its lock, and atomic writing of files."""

import contextlib
import fcntl
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, TextIO

import jax
from etils import epath

from vit_jax.cluster import hosts
from vit_jax.console.text import to_json
from vit_jax.errors import ConfigError, WorkdirError

# The files in the folder of a run, besides its settings and its checkpoints.
RESULTS = "results.json"
GOODPUT = "goodput.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations"  # a folder of files STEP-NAME.json


def is_local(path: epath.Path) -> bool:
    """Return whether a path is in the local file system, not in an object store."""
    return "://" not in str(path)


@contextlib.contextmanager
def lock(workdir: epath.Path) -> Iterator[None]:
    """Lock a work directory, so that no second run can write to it.

    Raises:
      ConfigError: The path has a character that Orbax cannot save to.
      WorkdirError: The directory cannot be written, or another process has locked it.
    """
    if is_local(workdir) and (special := set(str(workdir.absolute())) & set("[]\\")):
        problem = f"checkpoints cannot be saved to a path with {' '.join(sorted(special))}"
        raise ConfigError("--workdir", f"{problem}: {workdir.absolute()}; choose another path")
    with hosts.run_and_compare(lambda: _acquire_lock(workdir)):
        yield


def owner(workdir: epath.Path) -> str:
    """Return a description of the process that locks, or last locked, a local work directory."""
    path = workdir / ".lock"
    return path.read_text() if is_local(workdir) and path.exists() else ""


def _acquire_lock(workdir: epath.Path) -> TextIO:
    """Return the open lock file. Only the first process (host) locks the directory."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        locks = is_local(workdir) and jax.process_index() == 0
        path = workdir / ".lock" if locks else os.devnull
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = open(os.open(path, flags, 0o666), "a+")  # noqa: SIM115 - closed by `lock`
    except OSError as error:
        problem = error.strerror or error
        raise WorkdirError(
            f"--workdir: cannot write to {workdir} ({problem}); choose another path"
        ) from error
    if not locks:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with file:
            file.seek(0)
            holder = file.read() or "another process"
        raise WorkdirError(f"--workdir: {holder} is already training in {workdir}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    os.fsync(file.fileno())  # other hosts read it
    return file


def open_path(text: str, flag: str) -> epath.Path:
    """Return the path of a flag: a local path or a `gs://` URL. `~` is the home directory.

    Args:
      text: The value of the flag.
      flag: The name of the flag, for error messages.

    Raises:
      ConfigError: The package for the object store is not installed, or the URL scheme is unknown.
    """
    try:
        path = epath.Path(os.path.expanduser(text))
        if str(path).startswith("~"):  # do not create a folder named ~
            raise ConfigError(flag, f"unknown home directory {path.parts[0]}")
        path.exists()
    except ImportError as error:
        hint = "for gs:// paths, run pip install 'vit_jax[gcs]'"
        raise ConfigError(flag, f"cannot open {text}: {error}; {hint}") from error
    except KeyError as error:
        raise ConfigError(flag, f"expected a local path or a gs:// URL, got {text}") from error
    return path


def local_path(text: str, flag: str) -> pathlib.Path:
    """Return the path of a flag that must be local. `~` is the home directory.

    Args:
      text: The value of the flag.
      flag: The name of the flag, for error messages.

    Raises:
      ConfigError: The path is a URL.
    """
    if "://" in text:
        raise ConfigError(flag, f"expected a local path, got {text}")
    return pathlib.Path(os.path.expanduser(text))


@contextlib.contextmanager
def naming_failures(path: epath.Path, flag: str) -> Iterator[None]:
    """Say which flag has the path of a file that cannot be written in the block.

    Args:
      path: The file.
      flag: The name of the flag.

    Raises:
      WorkdirError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        problem = error.strerror or error
        raise WorkdirError(f"{flag}: cannot write {path} ({problem})") from error


def check_writable(path: epath.Path, flag: str) -> None:
    """Check that there can be files in the folder of a file, before there is anything to write.

    Args:
      path: The file. Its folder is made if there is none.
      flag: The name of the flag that has the path, for error messages.

    Raises:
      WorkdirError: There can be no files in its folder.
    """
    if jax.process_index() == 0 and is_local(path):
        with naming_failures(path, flag):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, on the first process (host) only."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(content, indent=2) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Write a file atomically: a reader sees either the old or the new content."""
    with replacing(path) as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: epath.Path, kind: str = "") -> Iterator[IO[Any]]:
    """Open a file to write that replaces another one at the end of the block, atomically.

    Args:
      path: The file. It stays as it is if the block fails.
      kind: `b` for a binary file.
    """
    temporary = path.parent / f".{path.name}.tmp"
    if is_local(path):  # never write through an existing symbolic link
        temporary.unlink(missing_ok=True)
    mode = "x" if is_local(path) else "w"
    with open(temporary, mode + kind) if is_local(path) else temporary.open(mode + kind) as file:
        yield file
        file.flush()
        if is_local(path):
            os.fsync(file.fileno())
    temporary.replace(path)
