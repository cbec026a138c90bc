"""Open the weights at a path: a file, or a folder with weights and documents."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from vit_jax.errors import ConfigError, DataError, InputMissingError
from vit_jax.weights.documents import Json, read_json
from vit_jax.weights.files import WeightFile, open_file
from vit_jax.weights.finding import find_files
from vit_jax.weights.prefixes import unwrap

DOCUMENTS = ("config.json", "preprocessor_config.json")


def open_weights(path: pathlib.Path, weights: str = "") -> tuple[WeightFile, dict[str, Json]]:
    """Open the weights at a path, and read the documents beside them.

    Args:
      path: A file, a folder, or the index of weights in several files.
      weights: `ema` or `raw`, if the path has both. An empty string prefers the EMA.

    Returns:
      The open weight file, and the documents by file name.

    Raises:
      InputMissingError: There are no weights.
      DataError: A file is corrupt, or the choice of files in a folder is ambiguous.
      ConfigError: The path does not have the requested `weights`.
    """
    if not path.exists():
        raise InputMissingError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    documents: dict[str, Json] = {
        name: read_json(folder / name) for name in DOCUMENTS if (folder / name).is_file()
    }
    found = find_files(path)
    with contextlib.ExitStack() as stack:
        joined = stack.enter_context(open_files(found.paths, weights, found.index))
        file = unwrap(dataclasses.replace(joined, notes=(*found.notes, *joined.notes)), weights)
        if weights == "ema" and file.kind != "ema":
            raise ConfigError("--weights", f"{path} has no average (EMA); omit the flag")
        stack.pop_all()
    return file, documents


def open_files(
    paths: Sequence[str | pathlib.Path],
    weights: str = "",
    index: Mapping[str, str] | None = None,
) -> WeightFile:
    """Open several files as one set of weights.

    Args:
      paths: The files.
      weights: `ema` or `raw`, if a file has both. An empty string prefers the EMA.
      index: The file name of each array, by array name, if there is an index.

    Raises:
      InputMissingError: A file is missing.
      DataError: A file is corrupt or not a weight file, two files have the same array, or the
        index lists other arrays.
      ConfigError: A file does not have the requested `weights`.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_file(path, weights)) for path in paths]
        owners: dict[str, WeightFile] = {}
        for file in files:
            if shared := owners.keys() & file.headers:
                name = min(shared)
                raise DataError(f"{file.path}: {name} is also in {owners[name].path}")
            owners |= dict.fromkeys(file.headers, file)
        if index:
            _check_index(files, index)
        close = stack.pop_all().close
    headers = {name: file.headers[name] for name, file in owners.items()}
    notes = tuple(dict.fromkeys(note for file in files for note in file.notes))
    kinds = {file.kind for file in files}
    return WeightFile(
        files[0].path,
        headers,
        lambda name: owners[name].read(name),
        close,
        notes,
        kinds.pop() if len(kinds) == 1 else "",
    )


def _check_index(files: Sequence[WeightFile], index: Mapping[str, str]) -> None:
    """Check that each file has exactly the arrays that the index lists for it.

    Raises:
      DataError: An array is missing from a file or from the index.
    """
    for file in files:
        listed = {name for name, owner in index.items() if owner == file.path.name}
        for names, problem in (
            (listed - file.headers.keys(), "is missing, although the index lists it"),
            (file.headers.keys() - listed, "is not in the index"),
        ):
            if names:
                raise DataError(f"{file.path}: {min(names)} {problem}")
