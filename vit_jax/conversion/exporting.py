"""The parameters of a run, as the files of another library."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import numpy as np
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import reading
from vit_jax.conversion.folders import CARRIED, ORIGIN, whole_folder
from vit_jax.errors import DataError, pick
from vit_jax.weights import SOURCES, files, rules
from vit_jax.weights.facts import NUMERICS, Facts
from vit_jax.weights.folder import read_json

Params = dict[str, np.ndarray]

_WORD = re.compile(r"[\w./ ]*(_?\{i1?\})?")  # what fills a placeholder of a rule


def export_weights(directory: pathlib.Path, to: str, output: pathlib.Path) -> tuple[str, ...]:
    """Writes the parameters of a run as a library reads them; returns what there is to say.

    Args:
      directory: Of the run.
      to: Which library.
      output: A folder, or one file.

    Raises:
      DataError: The library has no such model.
      WorkdirError: The output is there already, or cannot be written.
    """
    kind = pick(SOURCES, to, "--to")
    workdir = epath.Path(directory)
    config = config_lib.read_config(workdir)
    boxed = models.abstract_params(models.create(**config.model), config.data.image_shape)
    ema = config.optim.ema_decay > 0
    step, tree = reading.load_arrays(workdir, nn.unbox(boxed), ema=ema)
    params = flax.traverse_util.flatten_dict(tree, sep="/")
    shapes = {name: array.shape for name, array in params.items()}
    class_names = reading.read_class_names(workdir, step)
    del tree
    words, carried = _origin(directory, to)
    table = rules.Table(kind.RULES, {**kind.words_for(config.model), **words})
    # Read once, and then let go.
    written, make = rules.unload(table, shapes, params.pop, f"{to}'s format")
    headers = {k: files.Header(shape, np.dtype(np.float32)) for k, shape in written.items()}
    headers |= {k: files.Header(v.shape, v.dtype) for k, v in carried.items()}
    data = config_lib.as_dict(config.data)
    documents = kind.documents_for(config.model, data, class_names)
    facts = kind.describe(written, documents, config.model["name"].split("_")[0])
    notes = _differences(facts, config.model, to)

    def array(name: str) -> np.ndarray:
        return carried[name] if name in carried else make(name)

    if output.suffix:
        files.write_file(output, headers, array)
        return (*notes, *(f"a single file has no {name}" for name in documents))
    with whole_folder(output) as folder:
        files.write_file(folder / kind.FILE, headers, array)
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    return notes


def _differences(facts: Facts, model: Mapping[str, Any], to: str) -> tuple[str, ...]:
    """Returns what a library computes otherwise; refuses what would be another model there."""
    notes = []
    for key, value in {**facts.fields, **facts.sizes}.items():
        if key not in model or value == model[key]:
            continue
        said = f"{to} computes with {key} {value}, this model with {model[key]}"
        if key not in NUMERICS:
            raise DataError(f"config.model.{key}: {said}; it cannot be written for {to}")
        notes.append(f"{said}: the results differ")
    return tuple(notes)


def _origin(directory: pathlib.Path, to: str) -> tuple[dict[str, str], Params]:
    """Returns the names and the carried arrays of weights that came from the same library."""
    path = directory / ORIGIN
    origin = read_json(path) if path.is_file() else {}
    if origin.get("source") != to:
        return {}, {}
    words = origin.get("words")
    if not isinstance(words, dict) or not all(map(_WORD.fullmatch, map(str, words.values()))):
        raise DataError(f"{path}: words: expected the names that the weights had")
    if not (directory / CARRIED).is_file():
        return words, {}
    with files.open_file(directory / CARRIED) as file:
        return words, {name: file.read(name) for name in file.headers}
