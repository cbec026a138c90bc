"""Seals: files of SHA-256 digests that mark a checkpoint as complete.

A seal is a file in the directory of a step. It has the name of the step, the SHA-256 of every other
file in the directory, and the SHA-256 of its own content. It is written last. A step without a seal
is an incomplete save. A step that does not match its seal is corrupt.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from vit_jax.console.documents import MAX_BYTES, is_regular, read_json
from vit_jax.console.workdir import is_local, write_text
from vit_jax.errors import CheckpointError

SEAL = "seal.json"
# Files that Orbax and TensorStore read into memory whole.
DOCUMENTS = ("_METADATA", "_CHECKPOINT_METADATA", "_sharding", ".zarray", "manifest.ocdbt")
TMP = ".orbax-checkpoint-tmp"  # Orbax's suffix for unfinished saves


def sealed_steps(directory: epath.Path) -> list[int]:
    """Return the sealed steps, oldest first."""
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    steps = sorted(int(name) for name in names if name.isdecimal())
    return [step for step in steps if (directory / str(step) / SEAL).exists()]


def scores(directory: epath.Path) -> dict[int, float]:
    """Return the score of each sealed step that has one."""
    found = {}
    for step in sealed_steps(directory):
        with contextlib.suppress(CheckpointError):
            found[step] = read_seal(directory / str(step))["score"]
    return {step: score for step, score in found.items() if score is not None}


def best_step(directory: epath.Path) -> int | None:
    """Return the sealed step with the highest score; the newest one if several have it."""
    ranked = [(score, step) for step, score in scores(directory).items()]
    return max(ranked)[1] if ranked else None


def seal(path: epath.Path, score: float | None) -> None:
    """Write the seal of a finished step.

    Args:
      path: The directory of the step.
      score: The result that compares checkpoints, or None.
    """
    _write(path, {"step": path.name, "score": _finite(score), "files": _digests(path)})


def rescore(path: epath.Path, score: float) -> None:
    """Replace the score of a sealed step."""
    _write(path, {**read_seal(path), "score": _finite(score)})


def read_seal(path: epath.Path) -> dict[str, Any]:
    """Return the seal of a step: its `step`, its `score`, and `files`, the digest of each file.

    Raises:
      CheckpointError: The seal itself is corrupt.
    """
    try:
        content = read_json(path / SEAL)
        body = {key: content[key] for key in ("step", "score", "files")}
        if content["seal"] == _digest_of(body):
            return body
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise CheckpointError(f"{path / SEAL}: the seal is corrupt")


def find_corruption(path: epath.Path) -> str:
    """Return what is wrong with a sealed step, or an empty string. Extra files are ignored."""
    try:
        content = read_seal(path)
        found = _digests(path)
    except CheckpointError:
        return "its seal is unreadable"
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if content["step"] != path.name:
        return f"its seal belongs to step {content['step']}"
    for name, digest in content["files"].items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} has changed"
    return ""


def _finite(score: float | None) -> float | None:
    """Return a finite score; None for NaN and infinities, which do not compare."""
    return score if score is not None and math.isfinite(score) else None


def _write(path: epath.Path, body: Mapping[str, Any]) -> None:
    write_text(path / SEAL, json.dumps({**body, "seal": _digest_of(body)}, indent=1))


def _digests(path: epath.Path) -> dict[str, str]:
    files = [file for file in _files(path) if SEAL not in file.name]
    names = [str(file.relative_to(path)) for file in files]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return dict(sorted(zip(names, threads.map(_digest, files), strict=True)))


def _files(path: epath.Path) -> Iterator[epath.Path]:
    """Yield the files of a step.

    Raises:
      ValueError: An entry is not a regular file (a pipe, say), is a link to a folder, or is one of
        `DOCUMENTS` and too large.
    """
    folders = [path]
    while folders:
        for child in sorted(folders.pop().iterdir()):
            if child.is_dir():
                if is_local(child) and os.path.islink(child):
                    raise ValueError(f"{child.name} is a link to a folder")
                folders.append(child)
            elif child.exists() and not is_regular(child):
                raise ValueError(f"{child.name} is not a regular file")
            elif child.name in DOCUMENTS and child.stat().length > MAX_BYTES:
                raise ValueError(f"{child.name} has more than {MAX_BYTES:,} bytes")
            else:
                yield child


def _digest(file: epath.Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
