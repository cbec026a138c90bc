"""What lies at a path: one weight file, or a folder with weights and documents about them."""

import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.facts import Json
from vit_jax.weights.files import SUFFIXES, WeightFile, open_file

DOCUMENTS = ("config.json", "preprocessor_config.json")
INDEX = "model.safetensors.index.json"  # of weights in several files


def open_weights(path: pathlib.Path) -> tuple[WeightFile, dict[str, Json]]:
    """Opens the weights at a path, and reads the documents beside them.

    Raises:
      InputMissingError: There are none.
      DataError: A file is damaged, or a folder has several.
    """
    if not path.exists():
        raise InputMissingError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    documents: dict[str, Json] = {
        name: read_json(folder / name) for name in DOCUMENTS if (folder / name).is_file()
    }
    return open_files(_parts(path) if path.is_dir() else [path]), documents


def open_files(paths: Sequence[str | pathlib.Path]) -> WeightFile:
    """Opens one file, or several that hold the parts of a whole.

    Raises:
      InputMissingError: One is not there.
      DataError: One is damaged or holds something else, or two hold the same name.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_file(path)) for path in paths]
        owners: dict[str, WeightFile] = {}
        for file in files:
            if twice := owners.keys() & file.headers:
                raise DataError(f"{file.path}: {min(twice)} is in {owners[min(twice)].path} too")
            owners |= dict.fromkeys(file.headers, file)
        close = stack.pop_all().close
    headers = {name: file.headers[name] for name, file in owners.items()}
    return WeightFile(files[0].path, headers, lambda name: owners[name].read(name), close)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      DataError: It is damaged, or something else.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{path}: expected a JSON object, got {value!r:.40}")
    return dict(value)


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the weight files of a folder: the only one, or those that its index names."""
    if (folder / INDEX).is_file():
        names = read_json(folder / INDEX).get("weight_map")
        if not isinstance(names, Mapping) or not names or not all(map(_is_plain, names.values())):
            raise DataError(f"{folder / INDEX}: weight_map: expected a file name for each array")
        return [folder / name for name in sorted(set(names.values()))]
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    safe = [p for p in found if p.suffix == ".safetensors"] or found
    if not safe:
        raise InputMissingError(f"{folder}: no weights there; expected {', '.join(SUFFIXES)}")
    if len(safe) > 1:
        names = ", ".join(p.name for p in safe)
        raise DataError(f"{folder}: several weight files ({names}); name one of them")
    return safe


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and pathlib.PurePath(name).name == name
