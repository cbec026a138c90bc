"""Export the parameters of a run to the files of another library."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import numpy as np
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import average, reading
from vit_jax.conversion.folders import EXTRA_TENSORS, ORIGIN, atomic_folder
from vit_jax.conversion.libraries import find_library, series_of
from vit_jax.errors import DataError
from vit_jax.weights import files, precision, rules
from vit_jax.weights.documents import read_json
from vit_jax.weights.import_spec import NUMERICS, ImportSpec

Params = dict[str, np.ndarray]

_PLACEHOLDER_VALUE = re.compile(r"[\w./ ]*(_?\{i1?\})?")


class _Origin(NamedTuple):
    """The names, dtypes and extra tensors of imported weights, for an export to their library."""

    placeholders: Mapping[str, str]
    dtypes: Mapping[str, str]
    extra_tensors: Params


def export_weights(
    directory: pathlib.Path,
    to: str,
    output: pathlib.Path,
    weights: str = "",
    allowed: Sequence[str] = (),
) -> tuple[str, ...]:
    """Write the parameters of a run in the format of a library.

    Args:
      directory: The run folder.
      to: The name of the library.
      output: The folder to write, or the file if it has the suffix of a weight file.
      weights: `ema`, `raw`, or an empty string for `ema` if the run has an EMA.
      allowed: Keys of `config.json` that may differ from the checkpoint's config.

    Returns:
      Notes for the user, such as what the library computes differently.

    Raises:
      CheckpointError: The checkpoint is corrupt, or was trained with another config.
      ConfigError: The library, format or requested `weights` do not exist for this run.
      DataError: The library has no such model.
      WorkdirError: The output exists already, or cannot be written.
    """
    is_file = files.is_file_name(output)
    workdir = epath.Path(directory)
    config = config_lib.read_config(workdir)
    library = find_library(to, config.model["name"], "--to")
    boxed = models.abstract_variables(models.create(**config.model), config.data.image_shape)
    if others := boxed.keys() - {"params"}:
        problem = f"the model has {', '.join(sorted(others))}, which files of {to} cannot store"
        raise DataError(f"{directory}: {problem}; it cannot be exported to {to}")
    ema = average.takes_average(config, weights)
    params, class_names = _load_params(workdir, nn.unbox(boxed), config, allowed, ema=ema)
    origin = _read_origin(directory, to)
    fields = config_lib.flatten(config.model)
    fields["objective.loss"] = config.objective.get("loss", "")
    rewritten: tuple[str, ...] = ()
    if library.rewrite and not origin.placeholders:
        fields, rewritten = library.rewrite(fields, params)
    placeholders = {**library.placeholders_for(fields), **origin.placeholders}
    table = rules.Table(library.rules, placeholders)
    headers, array, notes = _plan_arrays(table, params, origin, f"{to}'s format")
    written = {k: v.shape for k, v in headers.items() if k not in origin.extra_tensors}
    data = config_lib.as_dict(config.data)
    documents = library.documents_for(fields, data, class_names)
    spec = library.describe(written, documents, series_of(config.model["name"]))
    notes += _note_differences(spec, fields, to)
    choice = average.describe(config, weights)
    notes = (*([choice] if choice else []), *rewritten, *notes)

    if is_file:
        files.write_file(output, headers, array)
        return (*notes, *(f"a single file has no {name}" for name in documents))
    with atomic_folder(output) as folder:
        files.write_file(folder / library.file, headers, array)
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    return notes


def _load_params(
    workdir: epath.Path,
    shapes: Mapping[str, Any],
    stored: config_lib.Config,
    allowed: Sequence[str],
    *,
    ema: bool,
) -> tuple[Params, tuple[str, ...]]:
    """Return the parameters of the newest checkpoint by name, and the class names."""
    step, variables = reading.load_arrays(workdir, shapes, ema=ema, stored=stored, allowed=allowed)
    params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return params, reading.read_class_names(workdir, step)


def _plan_arrays(
    table: rules.Table, params: Params, origin: _Origin, where: str
) -> tuple[dict[str, files.Header], rules.Read, tuple[str, ...]]:
    """Plan the arrays of an export.

    Args:
      table: The rules and placeholders of the library.
      params: The parameters by name. Each is removed when it is read.
      origin: The origin of the weights.
      where: The file format, for errors.

    Returns:
      The header of each array by name, a function that makes each array once, and notes.

    Raises:
      DataError: The library has no name for a parameter.
    """
    shapes = {name: array.shape for name, array in params.items()}
    written, make = rules.export_params(table, shapes, params.__getitem__, where)
    dtypes, notes = precision.restore_dtypes(origin.dtypes, written, make)
    # From here on each parameter is read once: `pop` then frees its memory.
    _, make_last = rules.export_params(table, shapes, params.pop, where)
    float32 = np.dtype(np.float32)
    headers = {k: files.Header(v, dtypes.get(k, float32)) for k, v in written.items()}
    headers |= {k: files.Header(v.shape, v.dtype) for k, v in origin.extra_tensors.items()}

    def array(name: str) -> np.ndarray:
        if name in origin.extra_tensors:
            return origin.extra_tensors[name]
        return make_last(name).astype(headers[name].dtype, copy=False)

    return headers, array, notes


# Values that compute the same as another value.
SAME_RESULTS = {("attention.name", name): "auto" for name in ("full", "fused")}


def _note_differences(spec: ImportSpec, model: Mapping[str, Any], to: str) -> tuple[str, ...]:
    """Return notes on the fields of a model that a library computes with other values.

    Args:
      spec: What the library would read from the exported files.
      model: The fields of the model, by path.
      to: The name of the library.

    Raises:
      DataError: The field is not one of `NUMERICS`: the library would build another model.
    """
    notes = []
    for key, value in {**spec.fields, **spec.sizes}.items():
        if key not in model or SAME_RESULTS.get((key, model[key]), model[key]) == value:
            continue
        difference = f"{to} computes with {key}={value}, this model with {key}={model[key]}"
        if key not in NUMERICS:
            raise DataError(f"config.model.{key}: {difference}; it cannot be exported to {to}")
        notes.append(f"{difference}: the outputs differ")
    return tuple(notes)


def _read_origin(directory: pathlib.Path, to: str) -> _Origin:
    """Return the origin of the weights in a run folder; an empty one if they were trained here.

    Raises:
      DataError: `origin.json` is corrupt.
    """
    path = directory / ORIGIN
    origin = read_json(path) if path.is_file() else {}
    dtypes = origin.get("dtypes", {})
    valid = precision.OTHER_FLOATS
    if not isinstance(dtypes, dict) or not all(str(dtype) in valid for dtype in dtypes.values()):
        raise DataError(f"{path}: dtypes: expected one of {', '.join(valid)} for each array")
    if origin.get("source") != to:
        return _Origin({}, dtypes, {})
    placeholders = origin.get("placeholders")
    if not isinstance(placeholders, dict) or not all(map(_is_value, placeholders.values())):
        raise DataError(f"{path}: placeholders: expected a name for each placeholder")
    extra_tensors = directory / EXTRA_TENSORS
    if not extra_tensors.is_file():
        return _Origin(placeholders, dtypes, {})
    with files.open_file(extra_tensors) as file:
        tensors = {name: file.read(name) for name in file.headers}
    return _Origin(placeholders, dtypes, tensors)


def _is_value(value: Any) -> bool:
    """Return whether a value may fill a placeholder: a name with at most one block number."""
    return _PLACEHOLDER_VALUE.fullmatch(str(value)) is not None
