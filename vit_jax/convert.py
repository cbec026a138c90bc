"""Bring weights of other libraries in, and take ours out.

  python -m vit_jax.convert --source=timm|huggingface|google|big_vision --input=PATH
      --model=NAME [--model.field=value ...] [--data.field=value ...] --output=DIR [--check]
  python -m vit_jax.convert --to=timm|huggingface|google|big_vision --input=DIR --output=PATH

The first makes a run folder, which evaluate, predict and config.init_from accept; the second reads
one. A PATH is a file, or a folder with the documents that the library keeps beside its weights.
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
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.conversion.exporting import export_weights
from vit_jax.conversion.importing import Imported, import_weights, write_run
from vit_jax.errors import CheckpointError, ConfigError, DataError
from vit_jax.weights import SOURCES, reference

# Of the command line: fields of the sections model and data.
parse = functools.partial(cli.parse_overrides, sections=("model.", "data."))


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
        reference.check_installed(values.source)
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
    theirs = reference.outputs(source, path, config.model, images)
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
