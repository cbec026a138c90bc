"""Seals: what makes a checkpoint count.

A seal is a file in a step's directory with the SHA-256 of every other file there, and of itself.
It is written last, so a step without one was cut off; a step that no longer matches is damaged.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from vit_jax.errors import CheckpointError
from vit_jax.workdir import is_local

SEAL = "seal.json"
TMP = ".orbax-checkpoint-tmp"  # Orbax's suffix of what is not finished; ours too


def sealed_steps(directory: epath.Path) -> list[int]:
    """Returns the sealed steps, oldest first."""
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    steps = sorted(int(name) for name in names if name.isdecimal())
    return [step for step in steps if (directory / str(step) / SEAL).exists()]


def scores(directory: epath.Path) -> dict[int, float]:
    """Returns the score of each sealed step that has one."""
    found = {}
    for step in sealed_steps(directory):
        with contextlib.suppress(CheckpointError):
            found[step] = read_seal(directory / str(step))["score"]
    return {step: score for step, score in found.items() if score is not None}


def best_step(directory: epath.Path) -> int | None:
    """Returns the sealed step with the highest score, the newest of equals."""
    ranked = [(score, step) for step, score in scores(directory).items()]
    return max(ranked)[1] if ranked else None


def seal(path: epath.Path, score: float | None) -> None:
    """Writes the SHA-256 of every file of a finished step beside them."""
    body = {"score": score, "files": _digests(path)}
    text = json.dumps({**body, "seal": _digest_of(body)}, indent=1)
    temporary = path.parent / f"{path.name}.{SEAL}{TMP}"
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        if is_local(path):
            os.fsync(file.fileno())
    temporary.replace(path / SEAL)


def read_seal(path: epath.Path) -> dict[str, Any]:
    """Returns the seal of a step: its `score` and the digest of each of its `files`.

    Raises:
      CheckpointError: The seal itself is damaged.
    """
    try:
        content = json.loads((path / SEAL).read_text())
        body = {"score": content["score"], "files": content["files"]}
        if content["seal"] == _digest_of(body):
            return body
    except (ValueError, KeyError, TypeError):
        pass
    raise CheckpointError(f"{path / SEAL}: the seal is damaged")


def find_damage(path: epath.Path) -> str:
    """Returns what is wrong with a sealed step, or nothing."""
    try:
        expected = read_seal(path)["files"]
    except CheckpointError:
        return "its seal is unreadable"
    found = _digests(path)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected.get(name):
            return f"{name} has changed"
    return ""


def _digests(path: epath.Path) -> dict[str, str]:
    files = [file for file in _files(path) if file != path / SEAL]
    names = [str(file.relative_to(path)) for file in files]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return dict(sorted(zip(names, threads.map(_digest, files), strict=True)))


def _files(path: epath.Path) -> Iterator[epath.Path]:
    for child in path.iterdir():
        yield from _files(child) if child.is_dir() else (child,)


def _digest(file: epath.Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
