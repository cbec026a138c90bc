"""Import weights of other libraries, and export ours.

  python -m vit_jax.convert --source=timm|huggingface|google|big_vision --input=PATH
      [--model=NAME] [--model.field=value ...] [--data.field=value ...] --output=DIR [--check]
      [--labels=FILE] [--weights=ema|raw]
  python -m vit_jax.convert --to=timm|huggingface|google|big_vision --input=DIR --output=PATH
      [--weights=ema|raw]

The first command imports weights: it writes a run folder, which evaluate, predict and
config.init_from accept. The second command exports the weights of a run folder. PATH is a weight
file, or a folder with weights and the library's documents, such as config.json.
"""

import dataclasses
import functools
import pathlib
import sys

import flax
import jax
import numpy as np
from absl import flags

from vit_jax import models
from vit_jax.config import flatten
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.conversion.exporting import export_weights
from vit_jax.conversion.importing import Imported, import_weights, write_run
from vit_jax.conversion.label_files import read_labels
from vit_jax.conversion.libraries import check_name, find_original, list_libraries
from vit_jax.conversion.plain_copy import plain_copy
from vit_jax.data import transforms
from vit_jax.errors import CheckpointError, ConfigError
from vit_jax.weights import reference
from vit_jax.weights.library import Original

# Parses overrides of the sections `model` and `data`.
parse_overrides = functools.partial(cli.parse_overrides, sections=("model.", "data."))


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Import or export weights, as the flags select."""
    if bool(values.source) == bool(values.to):
        raise ConfigError("--source", "give --source to import weights, or --to to export them")
    for flag in ("input", "output"):
        if not values[flag].value:
            raise ConfigError(f"--{flag}", "expected a path")
        if "://" in str(values[flag].value):
            raise ConfigError(f"--{flag}", f"expected a local path, got {values[flag].value}")
    path = pathlib.Path(values.input).expanduser()
    output = pathlib.Path(values.output).expanduser()
    weights = values.weights or ""
    if values.to:
        if values.check or overrides or values.model or values.labels:
            accepted = "--input, --output, --weights and --allow_config_change"
            raise ConfigError("--to", f"an export accepts only {accepted}")
        allowed = values.allow_config_change
        for note in export_weights(path, values.to, output, weights, allowed):
            say(f"note      {note}")
        say(f"write     {output}")
        return
    if values.allow_config_change:
        raise ConfigError("--allow_config_change", "is only for exports (--to); omit it")
    if values.model:
        check_name(values.model)
    if values.check:  # report a missing package before the weights are read
        find_original(values.source, values.model)
    imported = import_weights(values.source, path, values.model, overrides, weights)
    if values.labels:
        num_classes = imported.config.model["num_classes"]
        names, notes = read_labels(pathlib.Path(values.labels).expanduser(), num_classes)
        notes = (*imported.notes, *notes)
        imported = dataclasses.replace(imported, class_names=names, notes=notes)
    _print_summary(imported, path, values.source, is_named=bool(values.model))
    if values.check:
        original = find_original(values.source, imported.config.model["name"])
        _check_pixels(imported, path, values.source, original)
        with plain_copy(path, weights) as plain:
            _check_outputs(imported, plain, values.source, original)
    write_run(imported, values.source, output)
    say(f"write     {output}")


def _print_summary(imported: Imported, path: pathlib.Path, source: str, is_named: bool) -> None:
    """Print the imported model, its preprocessing and the notes."""
    model = flatten(imported.config.model)
    data = imported.config.data
    num_params = sum(array.size for array in imported.params.values())
    preset = {"name": model["name"], **models.preset(model["name"])}
    changed = [f"{k}={v}" for k, v in model.items() if k not in preset or preset[k] != v]
    changes = f" with {', '.join(changed)}" if changed else ""
    height, width = data.image_size
    say(f"read      {path}  {source}  {num_params:,} parameters")
    origin = "" if is_named else " (from config.json)"
    say(f"model     {model['name']}{origin}{changes}")
    say(
        f"images    {height}x{width}  {data.fit} {data.crop_fraction:.3g}  {data.interpolation}  "
        f"mean {data.mean}  std {data.std}"
    )
    for note in imported.notes:
        say(f"note      {note}")


def _check_pixels(imported: Imported, path: pathlib.Path, source: str, original: Original) -> None:
    """Compare normalized pixels with those of the library's own preprocessing.

    Raises:
      CheckpointError: The pixels differ by more than 1e-4 of the largest value (at least 1).
    """
    data = imported.config.data
    if original.pixels is None or data.channels != 3:
        return
    images = np.random.default_rng(0).integers(0, 256, (2, *data.image_shape), np.uint8)
    theirs = original.pixels(path, images)
    if theirs is None:
        return
    ours = np.asarray(transforms.normalize(jax.numpy.asarray(images), data.mean, data.std))
    error = np.abs(ours - theirs).max()
    if not error <= 1e-4 * max(1.0, np.abs(theirs).max()):
        problem = f"the pixels differ from those of {source} by up to {error:.1e}"
        raise CheckpointError(f"{path}: {problem}; nothing was written")


def _check_outputs(imported: Imported, path: pathlib.Path, source: str, original: Original) -> None:
    """Compare the outputs on random images with those of the original library.

    Raises:
      CheckpointError: The outputs differ by more than 3e-5 of the largest value (at least 1).
    """
    config = imported.config
    shape = (2, *config.data.image_size, config.data.channels)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = models.create(**config.model)
    params = flax.traverse_util.unflatten_dict(imported.params, sep="/")
    output = jax.jit(functools.partial(models.forward, model))({"params": params}, images)
    ours = np.asarray(output.logits if config.model["num_classes"] else output.features)
    theirs = reference.outputs(original, path, flatten(config.model), images)
    error = np.abs(ours - theirs).max()
    largest = np.abs(theirs).max()
    say(f"check     outputs differ by at most {error:.1e}; the largest output is {largest:.2f}")
    if not error <= 3e-5 * max(1.0, largest):  # another form of GELU differs by twice that or more
        raise CheckpointError(f"the outputs differ from those of {source}; nothing was written")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    names = ", ".join(list_libraries())
    flags.DEFINE_string("source", "", f"Source library: {names}.", flag_values=values)
    flags.DEFINE_string("to", "", f"Target library: {names}.", flag_values=values)
    flags.DEFINE_string("input", "", "Input path: a file or folder.", flag_values=values)
    flags.DEFINE_string("output", "", "Output path (must not exist).", flag_values=values)
    cli.define_weights_flag(values)
    flags.DEFINE_string(
        "model",
        "",
        "Name of the model, such as vit_b16; optional if there is a config.json.",
        flag_values=values,
    )
    flags.DEFINE_string("labels", "", "File of class names, one per line.", flag_values=values)
    cli.define_allow_flag(values)
    flags.DEFINE_bool(
        "check", False, "Compare the outputs with those of the library.", flag_values=values
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=parse_overrides))
