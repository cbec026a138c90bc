"""The weights at a path: one file, or a folder with weights and documents about them."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.documents import Json, read_json
from vit_jax.weights.files import SUFFIXES, WeightFile, open_file

DOCUMENTS = ("config.json", "preprocessor_config.json")
SHARD_INDEX = "model.safetensors.index.json"  # names the files of weights in several files


def open_weights(path: pathlib.Path) -> tuple[WeightFile, dict[str, Json]]:
    """Open the weights at a path, and read the documents beside them.

    Raises:
      InputMissingError: There are no weights.
      DataError: A file is corrupt, or a folder has several weight files without an index.
    """
    if not path.exists():
        raise InputMissingError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    documents: dict[str, Json] = {
        name: read_json(folder / name) for name in DOCUMENTS if (folder / name).is_file()
    }
    return open_files(_list_shards(path) if path.is_dir() else [path]), documents


def open_files(paths: Sequence[str | pathlib.Path]) -> WeightFile:
    """Open the files of one set of weights as one.

    Raises:
      InputMissingError: A file is missing.
      DataError: A file is corrupt or holds something else, or two hold the same name.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_file(path)) for path in paths]
        owners: dict[str, WeightFile] = {}
        for file in files:
            if shared := owners.keys() & file.headers:
                name = min(shared)
                raise DataError(f"{file.path}: {name} is in {owners[name].path} too")
            owners |= dict.fromkeys(file.headers, file)
        close = stack.pop_all().close
    headers = {name: file.headers[name] for name, file in owners.items()}
    return WeightFile(files[0].path, headers, lambda name: owners[name].read(name), close)


def _list_shards(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the weight files of a folder: the only one, or those that its index names."""
    index = folder / SHARD_INDEX
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, Mapping) or not names or not all(map(_is_plain, names.values())):
            raise DataError(f"{index}: weight_map: expected a file name for each array")
        return [folder / name for name in sorted(set(names.values()))]
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    files = [p for p in files if p.suffix == ".safetensors"] or files
    if not files:
        raise InputMissingError(f"{folder}: no weights there; expected {', '.join(SUFFIXES)}")
    if len(files) > 1:
        names = ", ".join(p.name for p in files)
        raise DataError(f"{folder}: several weight files ({names}); name one of them")
    return files


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and pathlib.PurePath(name).name == name
