"""Weights of other libraries to a run folder of ours."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
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
from vit_jax.conversion.folders import CARRIED, ORIGIN, whole_folder
from vit_jax.data import transforms
from vit_jax.errors import ConfigError, pick
from vit_jax.models.resizing import resize_table
from vit_jax.settings.recorded import Setting
from vit_jax.weights import SOURCES, adapt, files, rules
from vit_jax.weights.facts import Facts, find_size
from vit_jax.weights.folder import open_weights

Params = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights in our names, and everything that came with them."""

    resolved: config_lib.Resolved
    params: Params  # by name, such as blocks_0/attn/qkv/kernel
    class_names: tuple[str, ...]  # () where nobody knows them
    carried: Params
    words: Mapping[str, str]  # the names that the file used
    notes: tuple[str, ...]

    @property
    def config(self) -> config_lib.Config:
        """The config of a run with these weights."""
        return self.resolved.config


def import_weights(
    source: str, path: pathlib.Path, name: str, overrides: Mapping[str, str] | None = None
) -> Imported:
    """Reads the weights of a library.

    Args:
      source: Which one.
      path: A file, or a folder with documents.
      name: Of our model.
      overrides: Fields of the sections model and data, such as `{"model.qk_norm": "true"}`.

    Raises:
      InputMissingError: There is nothing at the path.
      DataError: A file is damaged, or not of this model; all that does not fit is listed.
      ConfigError: The model cannot be made.
    """
    kind = pick(SOURCES, source, "--source")
    file, documents = open_weights(path)
    with file:
        found = {key: header.shape for key, header in file.headers.items()}
        words = kind.words(found)
        facts = kind.describe(found, documents, name.split("_")[0])
        resolved, trained_size = _configure(facts, name, overrides or {}, path)
        config = resolved.config
        shapes = _shapes(config.model, trained_size, config.data.channels)
        with _counted(file) as read:
            table = rules.Table(kind.RULES, words)
            params, carried = rules.load(table, shapes, found, read, str(path))
    notes = facts.notes
    if config.data.image_size != trained_size:
        shapes = _shapes(config.model, config.data.image_size, config.data.channels)
        params, resized = adapt.resize_tables(params, shapes, _resize(config.model))
        notes += resized
    return Imported(resolved, params, facts.class_names, carried, words, notes)


def _configure(
    facts: Facts, name: str, flags: Mapping[str, str], path: pathlib.Path
) -> tuple[config_lib.Resolved, tuple[int, int]]:
    """Returns the settings of the weights, and the image size that they were trained with."""
    given = {f"model.{key}": value for key, value in {"name": name, **facts.fields}.items()}
    given |= {f"data.{key}": value for key, value in {"name": "", **facts.data}.items()}
    layer = {key: Setting(value, str(path)) for key, value in given.items()}
    merged = config_lib.merge(File.of(layer), flags)
    model, data = merged.config.model, merged.config.data
    for key, value in facts.sizes.items():
        if model[key] != value:
            problem = f"{path} has {value}, the model {model[key]}; try another --model"
            raise ConfigError(f"--model.{key}", problem)
    requested = data.image_size if "data.image_size" in flags else None
    stride = models.create(**model).stride
    size, has_prefix = find_size(facts, stride, facts.data.get("image_size"), requested)
    layer["data.image_size"] = Setting(size, str(path))
    if "posemb_prefix" in model and "posemb_prefix" not in facts.fields:
        layer["model.posemb_prefix"] = Setting(has_prefix, str(path))
    resolved = config_lib.resolve(File.of(layer), flags)
    transforms.check(resolved.config.data)
    return resolved, size


@contextlib.contextmanager
def _counted(file: files.WeightFile) -> Iterator[rules.Read]:
    """Gives the file's `read`, which shows how far it is."""
    progress, numbers = Progress(len(file.headers), 0, 10.0, "read"), itertools.count(1)

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
    """Writes weights as a run folder; whoever looks sees all of it or nothing.

    Raises:
      WorkdirError: The folder is there already, or cannot be written.
    """
    with whole_folder(output) as folder:
        workdir = epath.Path(folder)
        config = config_lib.as_dict(imported.config)
        params = flax.traverse_util.unflatten_dict(imported.params, sep="/")
        data = {"train_split": {"classes": list(imported.class_names)}}
        store.write_params(workdir, params, data, config)
        origin = {"source": source, "words": dict(imported.words)}
        (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        if imported.carried:
            headers = {k: files.Header(v.shape, v.dtype) for k, v in imported.carried.items()}
            files.write_file(folder / CARRIED, headers, imported.carried.__getitem__)
        stored.write(workdir, imported.config, imported.resolved.origins)


def _shapes(
    model: Mapping[str, Any], image_size: tuple[int, int], channels: int
) -> dict[str, rules.Shape]:
    boxed = models.abstract_params(models.create(**model), (*image_size, channels))
    leaves = flax.traverse_util.flatten_dict(nn.unbox(boxed), sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def _resize(model: Mapping[str, Any]) -> Any:
    return lambda name, table, shape: np.asarray(
        resize_table(name, jnp.asarray(table), shape, model)
    )
