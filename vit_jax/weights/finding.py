"""Which files of a folder are its weights: a folder of a library has many others."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.documents import read_json
from vit_jax.weights.files import SUFFIXES

# The libraries' own names for weights, of which the first that is there counts; and the documents
# that name the files of weights in several files.
OWN = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX = re.compile(r".+\.index(\.\w+)?\.json")
_PART = re.compile(r"(?P<whole>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.\w+")
# What trainers keep beside weights, in files with the same suffixes.
_TRAINING = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state|random_states)[\w.-]*")
# What folders are that hold no weights of one model, by a document in them.
_OTHER_FOLDERS = {
    "model_index.json": "a pipeline of diffusers; give the folder of one of its models",
    "adapter_config.json": "an adapter (PEFT), not a model; merge it into its model first",
    "origins.json": "a run of vit_jax; --to exports it",
}


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of one set of weights.

    Attributes:
      paths: The files.
      index: The name of the file of each array, where a document lists them.
      notes: What the user should know about the choice.
    """

    paths: tuple[pathlib.Path, ...]
    index: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_files(path: pathlib.Path) -> Found:
    """Return the weight files at a path: a file, a folder or an index.

    Raises:
      InputMissingError: There are none, or one of several is missing.
      DataError: It is not clear which ones are meant.
    """
    if path.is_dir():
        return _search(path)
    if _INDEX.fullmatch(path.name):
        return _read_index(path)
    part = _PART.fullmatch(path.name)
    if part and int(part["count"]) > 1:
        problem = f"part {int(part['number'])} of {int(part['count'])}; give the folder"
        raise DataError(f"{path}: {problem}")
    return Found((path,))


def _search(folder: pathlib.Path) -> Found:
    """Return the weight files in a folder."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    weights = [name for name in names if _is_weights(name.lower())]
    own = [name for name in OWN if name in names]
    indices = [name for name in names if _INDEX.fullmatch(name)]
    if not own:
        for name, kind in _OTHER_FOLDERS.items():
            if name in names:
                raise DataError(f"{folder}: {kind}")
    if not own and len(indices) == 1:
        own = indices
    if own:
        chosen = _read_index(folder / own[0]) if own[0] in indices else Found((folder / own[0],))
        others = [name for name in weights if name not in {path.name for path in chosen.paths}]
        note = f"took {own[0]}; beside it: {', '.join(others)}"
        return dataclasses.replace(chosen, notes=(note,) if others else ())
    if weights and all(map(_PART.fullmatch, weights)):
        return Found(_join_parts(folder, weights), notes=(f"joined {len(weights)} files",))
    safetensors = [name for name in weights if name.endswith(".safetensors")]
    candidates = safetensors or weights
    if not candidates:
        raise InputMissingError(f"{folder}: no weights there; {_suggest(folder, names)}")
    if len(candidates) > 1:
        listed = ", ".join(candidates[:10])
        raise DataError(f"{folder}: several weight files ({listed}); name one of them")
    others = [name for name in weights if name != candidates[0]]
    note = f"took {candidates[0]}; beside it: {', '.join(others)}"
    return Found((folder / candidates[0],), notes=(note,) if others else ())


def _is_weights(name: str) -> bool:
    is_archive = name.endswith(".tar") and not name.endswith(".pth.tar")
    return name.endswith(SUFFIXES) and not is_archive and not _TRAINING.fullmatch(name)


def _read_index(index: pathlib.Path) -> Found:
    """Return the files that an index names.

    Raises:
      DataError: It names none, or files elsewhere.
      InputMissingError: One is missing.
    """
    owners = read_json(index).get("weight_map")
    if not isinstance(owners, Mapping) or not owners or not all(map(_is_plain, owners.values())):
        raise DataError(f"{index}: weight_map: expected a file name for each array")
    names = sorted(set(owners.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        listed = ", ".join(missing[:5])
        raise InputMissingError(f"{index}: {len(missing)} of {len(names)} files missing: {listed}")
    return Found(tuple(index.parent / name for name in names), dict(owners))


def _is_plain(name: object) -> bool:
    is_name = isinstance(name, str) and pathlib.PurePath(name).name == name
    return is_name and str(name).endswith(SUFFIXES) and "\0" not in str(name)


def _join_parts(folder: pathlib.Path, names: Sequence[str]) -> tuple[pathlib.Path, ...]:
    """Return all parts of one set of weights that has no index.

    Raises:
      DataError: They are parts of several, or one is missing.
    """
    parts = [part for name in names if (part := _PART.fullmatch(name))]
    wholes = {(part["whole"], int(part["count"])) for part in parts}
    if len(wholes) > 1:
        raise DataError(f"{folder}: parts of several sets of weights ({', '.join(names[:10])})")
    count = wholes.pop()[1]
    found = {int(part["number"]) for part in parts}
    if missing := set(range(1, count + 1)) - found or found - set(range(1, count + 1)):
        raise DataError(f"{folder}: parts 1 to {count} of the weights expected; see {min(missing)}")
    return tuple(folder / name for name in names)


def _suggest(folder: pathlib.Path, names: Sequence[str]) -> str:
    """Return what the user may have meant by a folder without weights."""
    inner = sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and any((child / name).is_file() for name in OWN)
    )
    if inner:
        return f"name one of the folders in it: {', '.join(inner[:5])}"
    others = [name for name in names if name.endswith((".h5", ".msgpack", ".onnx", ".gguf"))]
    found = f"; {', '.join(others)} is of a format that is not read" if others else ""
    return f"expected {', '.join(SUFFIXES)}{found}"
