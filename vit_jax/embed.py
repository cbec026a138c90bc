"""Embed images: the features of each one by a trained model, in a file.

  python -m vit_jax.embed --workdir=runs/digits --output=test.npz [--split=test]
      [--layer=blocks_5] [--pool=cls|mean|tokens] [--step=best|N] [--weights=ema|raw]
      [--config.key=value ...]
  python -m vit_jax.embed --workdir=runs/digits --output=mine.parquet IMAGE_OR_FOLDER...

Each readable image is one row, in order. By default, the features are the input of the head. In a
notebook:

  embedder = Embedder("runs/digits", layer="blocks_5", pool="mean")
  embedder(["a.jpg", "b.png"]).features
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import average, pretrained
from vit_jax.cluster import hosts, launchers, sharding
from vit_jax.config import shared_by_hosts
from vit_jax.console import cli, tables
from vit_jax.console.progress import say, warn
from vit_jax.console.waiting import cache_directory, waiting
from vit_jax.data.sources import Source
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import ConfigError
from vit_jax.evaluation.embedding import Embedding, SourceEmbedder, write_embedding
from vit_jax.evaluation.operands import images_of
from vit_jax.evaluation.pooling import POOLS
from vit_jax.evaluation.requests import Request, open_images, resolve, resolve_run

UNLABELLED = ("",)  # the only class of images without labels
LARGE = 10**9  # bytes of features, from which on the command says how much memory they take


class Embedder:
    """A trained model that embeds images.

    Args:
      workdir: Work directory of a run, or converted weights.
      layer: Path of a submodule, such as `blocks_5`; by default the input of the head.
      pool: `cls`, `mean`, `tokens` or, by default, the pool of the model.
      step: Step of the checkpoint: a number, `best`, or `""` for the newest.
      weights: `ema` (the exponential moving average, the default for a run that has one) or `raw`.
      allow_config_change: Keys of `config.json` that may differ from the config of the checkpoint,
        such as `data.mean`.

    Raises:
      InputMissingError: There is no such run or checkpoint.
      CheckpointError: The checkpoint is corrupt.
      ConfigError: There is no such layer or pool, or the run has no such weights.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        layer: str = "",
        pool: str = "",
        step: str = "",
        weights: str = "",
        allow_config_change: Sequence[str] = (),
    ) -> None:
        request = resolve_run(str(workdir), {})
        mesh = sharding.make_mesh(devices=jax.local_devices())
        config = _tolerant(request.resolved.config)
        run = pretrained.open_run(
            request.workdir, step, config, mesh, weights=weights, allowed=allow_config_change
        )
        self._embed = SourceEmbedder(run, config, mesh, layer, pool)

    def __call__(self, images: Any) -> Embedding:
        """Return the embedding of images; those that cannot be read are named and left out.

        Args:
          images: A `Source`, or an iterable of paths, encoded files (bytes or open), Pillow images,
            or uint8 pixels of shape (h, w) or (h, w, c); or a batch (n, h, w, c).

        Raises:
          DataError: No image can be read.
          TypeError: `images` is a single image, or not an ordered iterable.
        """
        labelled = isinstance(images, Source)
        source = images if labelled else InMemory(images, UNLABELLED)
        return self._embed(source, labelled=labelled)


def _tolerant(config: config_lib.Config) -> config_lib.Config:
    """Return a config with which any number of images may be unreadable."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, max_unreadable=1.0))


def main(values: flags.FlagValues, arguments: tuple[list[str], dict[str, str]]) -> None:
    """Write the embedding of a split, or of the images that the operands name.

    Raises:
      ConfigError: A flag is wrong, or there are both images and a split.
      DataError: Too many images are unreadable, or all are.
      InputMissingError: There is no such run, or none of the operands exists.
      WorkdirError: The file cannot be written.
    """
    operands, overrides = arguments
    output = tables.check_output(values.output, "--output")
    names = ("workdir", "split", "step", "weights", "layer", "pool")
    flag_values = {f"--{name}": values[name].value for name in names}
    request, given = hosts.run_and_compare(
        lambda: _resolve(values, operands, overrides),
        lambda found: {**flag_values, **shared_by_hosts(found[0].resolved.config, {})},
    )
    config = request.resolved.config if given is None else _tolerant(request.resolved.config)
    weights = values.weights or ""
    mesh = sharding.make_mesh(config.mesh.sizes)
    allowed = values.allow_config_change
    run = pretrained.open_run(
        request.workdir, values.step, config, mesh, weights=weights, allowed=allowed
    )
    embed = SourceEmbedder(run, config, mesh, values.layer, values.pool)
    with waiting("opening the data set"):
        source = hosts.run_and_compare(
            lambda: open_images(request) if given is None else given,
            lambda source: shared_by_hosts(config, {request.field: source.fingerprint}),
        )
    title = source.title if given is None else f"{len(source):,} images"
    say(f"embed     {request.workdir}, step {run.step:,}, on {title}")
    for note in (*request.resolved.notes, *source.notes):
        say(f"note      {note}")
    if choice := average.describe(config_lib.read_config(request.workdir), weights):
        say(f"weights   {choice}")
    say(f"features  {embed.features}")
    if (size := len(source) * embed.features.size) >= LARGE:
        say(f"memory    {size / 1e9:,.1f} GB of features on each host, until they are written")
    if where := cache_directory():
        say(f"cache     {where} (compiled programs)")
    _write(output, embed(source, labelled=given is None))


def _resolve(
    values: flags.FlagValues, operands: Sequence[str], overrides: dict[str, str]
) -> tuple[Request, Source | None]:
    """Return what the flags ask for, and the images of the operands, if there are operands."""
    if not operands:
        return resolve(values.workdir, values.split, overrides), None
    if values.split:
        raise ConfigError("--split", f"expected a split or images, got both: {operands[0]}")
    source = InMemory(images_of(operands), UNLABELLED)
    source.title = ", ".join(operands)
    return resolve_run(values.workdir, overrides), source


def _write(path: epath.Path, found: Embedding) -> None:
    """Write the file on host 0, and say what is in it."""
    write_embedding(path, found, flag="--output")
    skipped = len(found.facts["skipped"])
    left_out = f"; {skipped:,} unreadable, left out" if skipped else ""
    say(f"written   {path}: {len(found.ids):,} rows{left_out}")
    finite = np.isfinite(found.features).all(axis=tuple(range(1, found.features.ndim)))
    if count := np.count_nonzero(~finite):
        warn(f"{path}: features that are not finite in {count:,} of {len(finite):,} rows")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    values.set_gnu_getopt(True)  # flags may follow the images
    launchers.define_flags(values)
    text = "The work directory of a run, or converted weights."
    flags.DEFINE_string("workdir", "", text, flag_values=values)
    text = "The file to write: NAME.npz or NAME.parquet."
    flags.DEFINE_string("output", "", text, flag_values=values)
    text = "The images, unless files are given; as for vit_jax.evaluate."
    flags.DEFINE_string("split", "", text, flag_values=values)
    text = "A layer by its name, such as blocks_5; by default the input of the head."
    flags.DEFINE_string("layer", "", text, flag_values=values)
    text = f"How tokens become features: {', '.join(POOLS)}; by default as the model does."
    flags.DEFINE_string("pool", "", text, flag_values=values)
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    cli.define_allow_flag(values)
    cli.define_weights_flag(values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=cli.parse_operands_and_overrides))
