"""Import the weights of another library into a run folder."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import store
from vit_jax.config import stored
from vit_jax.config.layers import File
from vit_jax.console.progress import Progress
from vit_jax.conversion.folders import EXTRA_TENSORS, ORIGIN, atomic_folder
from vit_jax.conversion.libraries import find_library, infer_model, series_of
from vit_jax.conversion.trained_size import find_size
from vit_jax.data import transforms
from vit_jax.errors import ConfigError, DataError
from vit_jax.models.resizing import resize_table
from vit_jax.settings.recorded import Setting
from vit_jax.weights import adapt, files, precision, rules
from vit_jax.weights.folder import open_weights
from vit_jax.weights.import_spec import ImportSpec
from vit_jax.weights.library import Library, Shapes

Params = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights under our names, with their config and origin.

    Attributes:
      resolved: The config of a run with these weights.
      params: Parameters in float32, by name, such as `blocks_0/attn/qkv/kernel`.
      class_names: The class names; empty if unknown.
      extra_tensors: Arrays of the file that our model does not have, by their names in the file.
      placeholders: The placeholders of the names in the file; see `weights.rules`.
      notes: Notes for the user.
      dtypes: The dtype names of the arrays that were not float32, by their names in the file.
    """

    resolved: config_lib.Resolved
    params: Params
    class_names: tuple[str, ...]
    extra_tensors: Params
    placeholders: Mapping[str, str]
    notes: tuple[str, ...]
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> config_lib.Config:
        """The config of a run with these weights."""
        return self.resolved.config


def import_weights(
    source: str,
    path: pathlib.Path,
    name: str,
    overrides: Mapping[str, str] | None = None,
    weights: str = "",
) -> Imported:
    """Read the weights of a library, and convert them to our names and layout.

    Args:
      source: The name of the library.
      path: A file, or a folder with documents.
      name: The name of our model; empty to infer it from the documents beside the weights.
      overrides: Fields of the sections `model` and `data` as text, such as
        `{"model.attention.qk_norm": "true"}`.
      weights: `ema` or `raw`, if the path has both. An empty string prefers the EMA.

    Raises:
      InputMissingError: There are no weights at the path.
      DataError: A file is corrupt, or does not match the model. The message lists all names and
        shapes that do not match.
      ConfigError: The library is unknown or has no weights of the model's family, or the model
        cannot be built.
    """
    if name:  # refuse a wrong name before reading any file
        find_library(source, name, "--source")
    file, documents = open_weights(path, weights)
    dtypes = precision.Dtypes()
    with file:
        file_shapes = {key: header.shape for key, header in file.headers.items()}
        try:
            library, name, spec = _describe(source, name, file_shapes, documents)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        placeholders = library.placeholders(file_shapes)
        resolved, trained_size, notes = _configure(spec, name, overrides or {}, path)
        config = resolved.config
        shapes = _param_shapes(config.model, trained_size, config.data.channels)
        with _showing_progress(file) as read:
            table = rules.Table(library.rules, placeholders)
            params, extra_tensors = rules.import_params(
                table, shapes, file_shapes, dtypes.recording(read), str(path)
            )
    notes = (*file.notes, *spec.notes, *dtypes.notes(), *notes)
    notes += _note_overridden_fields(spec, config, overrides or {}, path)
    notes += _note_extra_tensors(table.extra_tensors(file_shapes))
    if config.data.image_size != trained_size:
        shapes = _param_shapes(config.model, config.data.image_size, config.data.channels)
        params, resized = adapt.resize_tables(params, shapes, _resize(config.model))
        notes += resized
    exact = {key: dtype for key, dtype in dtypes.exact.items() if key not in extra_tensors}
    return Imported(resolved, params, spec.class_names, extra_tensors, placeholders, notes, exact)


def _describe(
    source: str, name: str, shapes: Shapes, documents: Mapping[str, Any]
) -> tuple[Library, str, ImportSpec]:
    """Return the library, the name of our model, and what its weights state.

    Raises:
      DataError: A document or the arrays belong to a model that is not supported.
      ConfigError: The library or model is unknown, or the model cannot be inferred.
    """
    inferred = {} if name else infer_model(source, shapes, documents)
    name = name or inferred.pop("name")
    library = find_library(source, name, "--source")
    spec = library.describe(shapes, documents, series_of(name))
    return library, name, dataclasses.replace(spec, fields={**inferred, **spec.fields})


def _note_extra_tensors(extra: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a note for each kind of arrays that our model does not have."""
    notes = []
    for kind, names in extra.items():
        count = f" ({len(names)} arrays)" if len(names) > 1 else ""
        notes.append(f"{kind}{count} is not part of the model; it is kept for an export")
    return tuple(notes)


def _configure(
    spec: ImportSpec, name: str, flags: Mapping[str, str], path: pathlib.Path
) -> tuple[config_lib.Resolved, tuple[int, int], tuple[str, ...]]:
    """Return the config of the weights, the image size that they were trained with, and notes."""
    values = {f"model.{key}": value for key, value in _fields(spec, name, flags).items()}
    values |= {f"data.{key}": value for key, value in {"name": "", **spec.data}.items()}
    values |= {f"objective.{key}": value for key, value in spec.objective.items()}
    layer = {key: Setting(value, str(path)) for key, value in values.items()}
    config = config_lib.merge(File.of(layer), flags).config
    model = config_lib.flatten(config.model)
    for key, value in spec.sizes.items():
        if key in model and model[key] != value:
            problem = f"{path} has {value}, the model has {model[key]}; try another --model"
            raise ConfigError(f"--model.{key}", problem)
    requested = config.data.image_size if "data.image_size" in flags else None
    stride = models.create(**config.model).stride
    stated = spec.trained_size or spec.data.get("image_size")
    size, token_rows, notes = find_size(spec, stride, stated, requested)
    if not spec.trained_size:
        layer["data.image_size"] = Setting(size, str(path))
    rows = {"posemb.prefix": token_rows > 0, "posemb.registers": token_rows > spec.num_tokens}
    for key, value in rows.items():
        if key in model and key not in spec.fields:
            layer[f"model.{key}"] = Setting(value, str(path))
    resolved = config_lib.resolve(File.of(layer), flags)
    transforms.check(resolved.config.data)
    return resolved, size, notes


def _note_overridden_fields(
    spec: ImportSpec, config: config_lib.Config, flags: Mapping[str, str], path: pathlib.Path
) -> tuple[str, ...]:
    """Return notes on the flags that override what the weights and documents state."""
    model = config_lib.flatten(config.model)
    notes = []
    for key, value in spec.fields.items():
        given = flags.keys() & {f"model.{key}", f"model.{key}".removesuffix(".name")}
        if given and key in model and model[key] != value:
            notes.append(
                f"{path} has {key}={value}; --{min(given)} overrides it and changes the outputs"
            )
    return tuple(notes)


def _fields(spec: ImportSpec, name: str, flags: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a file states and that the model, with its parts, has."""
    parts = {}
    for key, own in models.part_names(name).items():
        stated = spec.fields.get(f"{key}.name", own)
        parts[key] = flags.get(f"model.{key}", flags.get(f"model.{key}.name", stated))
    declared = models.declarations(name, parts)
    return {"name": name} | {key: value for key, value in spec.fields.items() if key in declared}


@contextlib.contextmanager
def _showing_progress(file: files.WeightFile) -> Iterator[rules.Read]:
    """Yield the file's `read` with a progress line."""
    progress = Progress(len(file.headers), 0, 10.0, "read")
    numbers = itertools.count(1)

    def read(name: str) -> np.ndarray:
        number = next(numbers)
        if progress.due():
            progress.show(number, name)
        return file.read(name)

    try:
        yield read
    finally:
        progress.close()


def write_run(imported: Imported, source: str, output: pathlib.Path) -> None:
    """Write weights as a run folder, atomically: the folder appears when it is complete.

    Args:
      imported: The weights.
      source: The name of the library that they come from.
      output: The folder to create.

    Raises:
      WorkdirError: The folder exists already, or cannot be written.
    """
    with atomic_folder(output) as folder:
        workdir = epath.Path(folder)
        config = config_lib.as_dict(imported.config)
        params = flax.traverse_util.unflatten_dict(imported.params, sep="/")
        data = {"train_split": {"classes": list(imported.class_names)}}
        store.write_variables(workdir, {"params": params}, data, config)
        origin = {
            "source": source,
            "placeholders": dict(imported.placeholders),
            "dtypes": dict(imported.dtypes),
        }
        (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        if extra := imported.extra_tensors:
            headers = {k: files.Header(v.shape, v.dtype) for k, v in extra.items()}
            files.write_file(folder / EXTRA_TENSORS, headers, extra.__getitem__)
        stored.write(workdir, imported.config, imported.resolved.origins)


def _param_shapes(
    model: Mapping[str, Any], image_size: tuple[int, int], channels: int
) -> dict[str, rules.Shape]:
    boxed = models.abstract_variables(models.create(**model), (*image_size, channels))
    leaves = flax.traverse_util.flatten_dict(nn.unbox(boxed["params"]), sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def _resize(model: Mapping[str, Any]) -> adapt.Resize:
    return lambda name, table, shape: np.asarray(
        resize_table(name, jnp.asarray(table), shape, model)
    )
