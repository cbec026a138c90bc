"""Bring weights of other libraries in, and take ours out.

  python -m vit_jax.convert --source=timm|huggingface|google|big_vision --input=PATH
      --model=NAME [--model.field=value ...] [--data.field=value ...] --output=DIR [--check]
  python -m vit_jax.convert --to=timm|huggingface|google|big_vision --input=DIR --output=PATH

The first makes a run folder, which evaluate, predict and config.init_from accept; the second reads
one. A PATH is a file, or a folder with the documents that the library keeps beside its weights.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from vit_jax import checkpoint, cli, models, state, trained
from vit_jax import config as config_lib
from vit_jax.data import transforms
from vit_jax.errors import CheckpointError, ConfigError, DataError, WorkdirError, pick
from vit_jax.fields import coerce
from vit_jax.logs import Progress, say
from vit_jax.models.transformer import resize_table
from vit_jax.weights import SOURCES, adapt, files, originals, rules
from vit_jax.weights.base import NUMERICS, Facts, find_size
from vit_jax.weights.folder import open_weights, read_json

# Beside the checkpoint of converted weights: where they came from, and arrays that no model has.
ORIGIN, CARRIED = "origin.json", "carried.safetensors"

_WORD = re.compile(r"[\w./ ]*(_?\{i1?\})?")  # what fills a gap in a rule

Params = dict[str, np.ndarray]

# Of the command line: fields of the sections model and data.
parse = functools.partial(cli.parse_overrides, sections=("model.", "data."))


@dataclasses.dataclass(frozen=True)
class Imported:
    """Weights in our names, and everything that came with them."""

    config: config_lib.Config
    params: Params  # by name, such as blocks_0/attn/qkv/kernel
    class_names: tuple[str, ...]  # () where nobody knows them
    carried: Params
    words: Mapping[str, str]  # the names that the file used
    notes: tuple[str, ...]


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
    overrides = overrides or {}
    preset = models.spec(name).to_dict()
    file, documents = open_weights(path)
    with file:
        found = {key: header.shape for key, header in file.headers.items()}
        words = kind.words(found)
        facts = kind.describe(found, documents, name.split("_")[0])
        config, trained_size = _configure(facts, preset, overrides, path)
        shapes = _shapes(config.model, trained_size, config.data.channels)
        with _counted(file) as read:
            table = rules.Table(kind.RULES, words)
            params, carried = rules.load(table, shapes, found, read, str(path))
    notes = facts.notes
    if config.data.image_size != trained_size:
        shapes = _shapes(config.model, config.data.image_size, config.data.channels)
        params, resized = adapt.resize_tables(params, shapes, _resize(config.model))
        notes += resized
    return Imported(config, params, facts.class_names, carried, words, notes)


def _configure(
    facts: Facts, preset: Mapping[str, Any], overrides: Mapping[str, str], path: pathlib.Path
) -> tuple[config_lib.Config, tuple[int, int]]:
    """Returns the config of the weights, and the image size that they were trained with."""
    tree = config_lib.to_config_dict(config_lib.Config())
    tree.model = models.spec(preset["name"], **facts.fields)
    tree.data.update({"name": "", **facts.data})
    values = config_lib.override(tree, overrides)
    for key, kind in models.field_types(preset["name"]).items():
        values["model"][key] = coerce(values["model"][key], kind, f"config.model.{key}")
    for key, value in facts.sizes.items():
        if values["model"][key] != value:
            problem = f"{path} has {value}, the model {values['model'][key]}; try another --model"
            raise ConfigError(f"--model.{key}", problem)
    stride = models.create(**values["model"]).stride
    asked = values["data"]["image_size"] if "data.image_size" in overrides else None
    stated = facts.data.get("image_size")
    size, has_prefix = find_size(facts, stride, stated, asked)
    if "posemb_prefix" in preset.keys() - facts.fields.keys():
        values["model"]["posemb_prefix"] = has_prefix
    values["data"]["image_size"] = asked or size
    config = config_lib.resolve(values)
    transforms.check(config.data)
    return config, size


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
    with _whole_folder(output) as folder:
        workdir = epath.Path(folder)
        config = config_lib.as_dict(imported.config)
        params = flax.traverse_util.unflatten_dict(imported.params, sep="/")
        data = {"train_split": {"classes": list(imported.class_names)}}
        checkpoint.write_params(workdir, params, data, config)
        origin = {"source": source, "words": dict(imported.words)}
        (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        if imported.carried:
            headers = {k: files.Header(v.shape, v.dtype) for k, v in imported.carried.items()}
            files.write_file(folder / CARRIED, headers, imported.carried.__getitem__)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


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
    config = trained.read_config(workdir)
    boxed = state.abstract_params(models.create(**config.model), state.image_shape(config.data))
    ema = config.optim.ema_decay > 0
    step, tree = checkpoint.load_arrays(workdir, nn.unbox(boxed), ema=ema)
    params = flax.traverse_util.flatten_dict(tree, sep="/")
    shapes = {name: array.shape for name, array in params.items()}
    class_names = checkpoint.read_class_names(workdir, step)
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
    with _whole_folder(output) as folder:
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


@contextlib.contextmanager
def _whole_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, which takes its name at the end."""
    if output.exists():
        raise WorkdirError(f"{output}: exists already; give another --output")
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(output)
    except OSError as error:
        problem = f"{output}: cannot be written ({error.strerror or error})"
        raise WorkdirError(problem) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _shapes(
    model: Mapping[str, Any], image_size: tuple[int, int], channels: int
) -> dict[str, rules.Shape]:
    boxed = state.abstract_params(models.create(**model), (*image_size, channels))
    leaves = flax.traverse_util.flatten_dict(nn.unbox(boxed), sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


def _resize(model: Mapping[str, Any]) -> Any:
    return lambda name, table, shape: np.asarray(
        resize_table(name, jnp.asarray(table), shape, model)
    )


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Converts in the direction that the flags say."""
    if bool(values.source) == bool(values.to):
        raise ConfigError("--source", "give either --source, to bring weights in, or --to")
    for flag in ("input", "output"):
        if not values[flag].value:
            raise ConfigError(f"--{flag}", "expected a path")
        if "://" in str(values[flag].value):
            raise ConfigError(f"--{flag}", f"expected a local path, got {values[flag].value}")
    source, output = pathlib.Path(values.input), pathlib.Path(values.output)
    if values.to:
        if values.check or overrides or values.model:
            raise ConfigError("--to", "takes no other flags than --input and --output")
        for note in export_weights(source, values.to, output):
            say(f"note      {note}")
        say(f"write     {output}")
        return
    if not values.model:
        raise ConfigError("--model", "expected the name of a model, such as vit_b16")
    if values.check:
        originals.check_installed(values.source)
    imported = import_weights(values.source, source, values.model, overrides)
    if values.labels:
        classes = imported.config.model["num_classes"]
        names = _read_labels(pathlib.Path(values.labels), classes)
        imported = dataclasses.replace(imported, class_names=names)
    _describe(imported, source, values.source)
    if values.check:
        _check(imported, source, values.source)
    write_run(imported, values.source, output)
    say(f"write     {output}")


def _describe(imported: Imported, path: pathlib.Path, source: str) -> None:
    """Says what was read, and what was taken from where."""
    config, total = imported.config, sum(a.size for a in imported.params.values())
    preset = models.spec(config.model["name"])
    unused = (
        () if config.model["stem"] == "resnet" else ("weight_standardization", "group_norm_eps")
    )
    own = [f"{k}={v}" for k, v in config.model.items() if preset[k] != v and k not in unused]
    height, width = config.data.image_size
    data = config.data
    say(f"read      {path}  {source}  {total:,} parameters")
    say(f"model     {config.model['name']}" + f" with {', '.join(own)}" * bool(own))
    say(
        f"images    {height}x{width}  {data.fit} {data.crop_fraction:.3g}  {data.interpolation}  "
        f"mean {data.mean}  std {data.std}"
    )
    for note in imported.notes:
        say(f"note      {note}")
    for name in imported.carried:
        say(f"note      {name} has no part in the model; it is kept for the way back")


def _check(imported: Imported, path: pathlib.Path, source: str) -> None:
    """Compares the outputs with those of the original library."""
    config = imported.config
    shape = (2, *config.data.image_size, config.data.channels)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = models.create(**config.model)
    params = flax.traverse_util.unflatten_dict(imported.params, sep="/")
    output = jax.jit(functools.partial(models.forward, model))(params, images)
    ours = np.asarray(output.logits if config.model["num_classes"] else output.features)
    theirs = originals.outputs(source, path, config.model, images)
    error, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    say(f"check     outputs differ by {error:.1e} at most, the largest is {largest:.2f}")
    if not error <= 1e-4 * max(1.0, largest):
        raise CheckpointError(f"{path}: {source} gives other outputs; nothing was written")


def _read_labels(path: pathlib.Path, count: int) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--labels", f"cannot read {path}: {error}") from error
    if len(set(names)) != len(names) or len(names) != count:
        raise DataError(f"{path}: expected {count} different names, a line each, got {len(names)}")
    return names


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    known = ", ".join(SOURCES)
    flags.DEFINE_string("source", "", f"Whose weights come in: {known}.", flag_values=values)
    flags.DEFINE_string("to", "", "For whom ours are written: the same.", flag_values=values)
    flags.DEFINE_string("input", "", "What is read.", flag_values=values)
    flags.DEFINE_string("output", "", "What is written; not there yet.", flag_values=values)
    flags.DEFINE_string("model", "", "Our name of the model.", flag_values=values)
    flags.DEFINE_string("labels", "", "A file of class names, a line each.", flag_values=values)
    flags.DEFINE_bool("check", False, "Compare with the library itself.", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=parse))
