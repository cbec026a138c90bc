"""From the parameters of a run to the files of another library."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import numpy as np
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import reading
from vit_jax.conversion.folders import EXTRA_TENSORS, ORIGIN, whole_folder
from vit_jax.conversion.libraries import find_library, series_of
from vit_jax.errors import DataError
from vit_jax.weights import files, rules
from vit_jax.weights.documents import read_json
from vit_jax.weights.import_spec import NUMERICS, ImportSpec

Params = dict[str, np.ndarray]

_PLACEHOLDER_VALUE = re.compile(r"[\w./ ]*(_?\{i1?\})?")


def export_weights(
    directory: pathlib.Path, to: str, output: pathlib.Path, allowed: Sequence[str] = ()
) -> tuple[str, ...]:
    """Write the parameters of a run in the format of a library; return notes on differences.

    Args:
      directory: The run.
      to: The name of the library.
      output: The folder to write, or the file, where it has a suffix.
      allowed: Keys of its `config.json` that may differ from what the checkpoint was trained with.

    Raises:
      CheckpointError: The checkpoint is damaged, or was trained with another config.
      ConfigError: There is no such library, or it has no weights of the family; or no such format.
      DataError: The library has no such model.
      WorkdirError: The output exists already, or cannot be written.
    """
    workdir = epath.Path(directory)
    config = config_lib.read_config(workdir)
    library = find_library(to, config.model["name"], "--to")
    boxed = models.abstract_variables(models.create(**config.model), config.data.image_shape)
    if others := boxed.keys() - {"params"}:
        problem = f"the model has {', '.join(sorted(others))}, which the files of {to} do not hold"
        raise DataError(f"{directory}: {problem}; it cannot be written for {to}")
    ema = config.optim.ema_decay > 0
    abstract = nn.unbox(boxed)
    step, variables = reading.load_arrays(
        workdir, abstract, ema=ema, stored=config, allowed=allowed
    )
    params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    shapes = {name: array.shape for name, array in params.items()}
    class_names = reading.read_class_names(workdir, step)
    del variables
    placeholders, extra_tensors = _read_origin(directory, to)
    fields = config_lib.flatten(config.model)
    placeholders = {**library.placeholders_for(fields), **placeholders}
    table = rules.Table(library.rules, placeholders)
    # `pop`: a parameter is read once, and its memory then freed.
    written, make = rules.export_params(table, shapes, params.pop, f"{to}'s format")
    headers = {k: files.Header(shape, np.dtype(np.float32)) for k, shape in written.items()}
    headers |= {k: files.Header(v.shape, v.dtype) for k, v in extra_tensors.items()}
    data = config_lib.as_dict(config.data)
    documents = library.documents_for(fields, data, class_names)
    spec = library.describe(written, documents, series_of(config.model["name"]))
    notes = _differences(spec, fields, to)

    def array(name: str) -> np.ndarray:
        return extra_tensors[name] if name in extra_tensors else make(name)

    if output.suffix:
        files.write_file(output, headers, array)
        return (*notes, *(f"a single file has no {name}" for name in documents))
    with whole_folder(output) as folder:
        files.write_file(folder / library.file, headers, array)
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    return notes


# Values that compute the same as those of the libraries.
SAME_RESULTS = {("attention.name", "fused"): "full"}


def _differences(spec: ImportSpec, model: Mapping[str, Any], to: str) -> tuple[str, ...]:
    """Return notes on what a library computes differently.

    Raises:
      DataError: The difference makes another model of it.
    """
    notes = []
    for key, value in {**spec.fields, **spec.sizes}.items():
        if key not in model or SAME_RESULTS.get((key, model[key]), model[key]) == value:
            continue
        difference = f"{to} computes with {key} {value}, this model with {model[key]}"
        if key not in NUMERICS:
            raise DataError(f"config.model.{key}: {difference}; it cannot be written for {to}")
        notes.append(f"{difference}: the results differ")
    return tuple(notes)


def _read_origin(directory: pathlib.Path, to: str) -> tuple[dict[str, str], Params]:
    """Return the placeholders and the extra tensors of weights that came from the same library."""
    path = directory / ORIGIN
    origin = read_json(path) if path.is_file() else {}
    if origin.get("source") != to:
        return {}, {}
    placeholders = origin.get("placeholders")
    if not isinstance(placeholders, dict) or not all(map(_is_value, placeholders.values())):
        raise DataError(f"{path}: placeholders: expected the names that the weights had")
    extra_tensors = directory / EXTRA_TENSORS
    if not extra_tensors.is_file():
        return placeholders, {}
    with files.open_file(extra_tensors) as file:
        return placeholders, {name: file.read(name) for name in file.headers}


def _is_value(value: Any) -> bool:
    """Return whether a value may fill a placeholder of a rule: a name, at most with a number."""
    return _PLACEHOLDER_VALUE.fullmatch(str(value)) is not None
