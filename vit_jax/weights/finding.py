"""Find the weight files in a folder that has other files too."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.documents import read_json
from vit_jax.weights.files import SUFFIXES

# The file names that the libraries use, in order of preference. An index lists the files of weights
# that are split over several files.
STANDARD_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX = re.compile(r".+\.index(\.\w+)?\.json")
_PART = re.compile(r"(?P<whole>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.\w+")
# Files of the training state, which have the same suffixes as weights.
_TRAINING = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|random_states)[\w.-]*")
# Documents of folders that are not the weights of one model, and what to tell the user.
_NOT_WEIGHTS = {
    "model_index.json": "a pipeline of diffusers; give the folder of one of its models",
    "adapter_config.json": "an adapter (PEFT), not a model; merge it into its model first",
    "origins.json": "a run of vit_jax; --to exports it",
}


@dataclasses.dataclass(frozen=True)
class FileSet:
    """The files of one set of weights.

    Attributes:
      paths: The files.
      index: The file name of each array, by array name; empty if there is no index.
      notes: Notes for the user on the choice of files.
    """

    paths: tuple[pathlib.Path, ...]
    index: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_files(path: pathlib.Path) -> FileSet:
    """Return the weight files at a path.

    Args:
      path: A weight file, a folder, or an index.

    Raises:
      InputMissingError: There are no weights, or one of several files is missing.
      DataError: The choice is ambiguous, or the folder is not that of one model.
    """
    if path.is_dir():
        return _find_in_folder(path)
    if _INDEX.fullmatch(path.name):
        return _read_index(path)
    part = _PART.fullmatch(path.name)
    if part and int(part["count"]) > 1:
        problem = f"part {int(part['number'])} of {int(part['count'])}; give the folder"
        raise DataError(f"{path}: {problem}")
    return FileSet((path,))


def _find_in_folder(folder: pathlib.Path) -> FileSet:
    """Return the weight files in a folder."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    weights = [name for name in names if _is_weights(name.lower())]
    own = [name for name in STANDARD_NAMES if name in names]
    indices = [name for name in names if _INDEX.fullmatch(name)]
    if not own:
        for name, kind in _NOT_WEIGHTS.items():
            if name in names:
                raise DataError(f"{folder}: {kind}")
    if not own and len(indices) == 1:
        own = indices
    if own:
        chosen = _read_index(folder / own[0]) if own[0] in indices else FileSet((folder / own[0],))
        others = [name for name in weights if name not in {path.name for path in chosen.paths}]
        note = f"using {own[0]}; ignored: {', '.join(others)}"
        return dataclasses.replace(chosen, notes=(note,) if others else ())
    if weights and all(map(_PART.fullmatch, weights)):
        return FileSet(_join_parts(folder, weights), notes=(f"joined {len(weights)} files",))
    safetensors = [name for name in weights if name.endswith(".safetensors")]
    candidates = safetensors or weights
    if not candidates:
        raise InputMissingError(f"{folder}: no weights in this folder; {_hint(folder, names)}")
    if len(candidates) > 1:
        listed = ", ".join(candidates[:10])
        raise DataError(f"{folder}: several weight files ({listed}); name one of them")
    others = [name for name in weights if name != candidates[0]]
    note = f"using {candidates[0]}; ignored: {', '.join(others)}"
    return FileSet((folder / candidates[0],), notes=(note,) if others else ())


def _is_weights(name: str) -> bool:
    is_archive = name.endswith(".tar") and not name.endswith(".pth.tar")
    return name.endswith(SUFFIXES) and not is_archive and not _TRAINING.fullmatch(name)


def _read_index(index: pathlib.Path) -> FileSet:
    """Return the files that an index lists.

    Raises:
      DataError: The index lists no files, or files outside of its folder.
      InputMissingError: A file is missing.
    """
    owners = read_json(index).get("weight_map")
    if not isinstance(owners, Mapping) or not owners or not all(map(_is_basename, owners.values())):
        raise DataError(f"{index}: weight_map: expected a file name for each array")
    names = sorted(set(owners.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        listed = ", ".join(missing[:5])
        raise InputMissingError(f"{index}: {len(missing)} of {len(names)} files missing: {listed}")
    return FileSet(tuple(index.parent / name for name in names), dict(owners))


def _is_basename(name: object) -> bool:
    is_name = isinstance(name, str) and pathlib.PurePath(name).name == name
    return is_name and str(name).endswith(SUFFIXES) and "\0" not in str(name)


def _join_parts(folder: pathlib.Path, names: Sequence[str]) -> tuple[pathlib.Path, ...]:
    """Return all parts of one set of weights that has no index.

    Raises:
      DataError: The parts belong to several sets, or one is missing.
    """
    parts = [part for name in names if (part := _PART.fullmatch(name))]
    wholes = {(part["whole"], int(part["count"])) for part in parts}
    if len(wholes) > 1:
        raise DataError(f"{folder}: parts of several sets of weights ({', '.join(names[:10])})")
    count = wholes.pop()[1]
    numbers = {int(part["number"]) for part in parts}
    if wrong := set(range(1, count + 1)) - numbers or numbers - set(range(1, count + 1)):
        raise DataError(f"{folder}: expected parts 1 to {count} of the weights; check {min(wrong)}")
    return tuple(folder / name for name in names)


def _hint(folder: pathlib.Path, names: Sequence[str]) -> str:
    """Return what to do about a folder without weights."""
    inner = sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and any((child / name).is_file() for name in STANDARD_NAMES)
    )
    if inner:
        return f"give one of its folders: {', '.join(inner[:5])}"
    others = [name for name in names if name.endswith((".h5", ".msgpack", ".onnx", ".gguf"))]
    unsupported = f"; the format of {', '.join(others)} is not supported" if others else ""
    return f"expected {', '.join(SUFFIXES)}{unsupported}"
