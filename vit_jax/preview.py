"""Draw the training images of a config as its augmentation changes them.

  python -m vit_jax.preview --config=configs/x.py --output=grid.png
      [--images=6] [--draws=7] [--config.key=value ...]

Each row is one image: first as in evaluation, then as in training, with random erasing and mixing
with the other rows where the config enables them. Where the data set of the config is not on this
machine, the images are the digits that ship with the package.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import UInt8

from vit_jax import config as config_lib
from vit_jax import viz
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.console.workdir import local_path
from vit_jax.data import mixing, transforms
from vit_jax.data.images import UnreadableError
from vit_jax.data.sources import Source
from vit_jax.data.sources.folder import choose_splits
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import ConfigError, DataError, InputMissingError
from vit_jax.evaluation import losses


def draws(
    config: config_lib.Config, source: Source, num_images: int, num_draws: int
) -> UInt8[np.ndarray, "images columns h w c"]:
    """Return images as in evaluation, in the first column, and as in training, in the others.

    Args:
      config: The config of the run.
      source: Where the images come from, evenly spaced.
      num_images: Number of rows; fewer if the source has fewer images.
      num_draws: Number of columns after the first, each with other random numbers.

    Raises:
      DataError: An image cannot be read.
    """
    evaluation = transforms.for_evaluation(config.data)
    training = transforms.for_training(config.data)
    indices = np.unique(np.linspace(0, len(source) - 1, num_images, dtype=int))
    records = [source[int(i)] for i in indices]
    decoded = []
    for index, record in zip(indices, records, strict=True):
        try:
            decoded.append(training.decode(record["image"]))
        except UnreadableError as error:
            raise DataError(f"{source.describe(int(index))}: {error}") from error
    columns = [np.stack([evaluation(image, np.random.default_rng(0)) for image in decoded])]
    num_classes = len(source.class_names)
    labels = jnp.asarray([record["label"] for record in records])
    targets = functools.partial(losses.targets, num_classes=num_classes)
    transform = jax.jit(mixing.batch_transform(config.data, config.mix, targets))
    mean, std = np.asarray(config.data.mean), np.asarray(config.data.std)
    for draw in range(num_draws):
        seeds = [(config.seed, draw, i) for i in range(len(decoded))]
        batch = [
            training(image, np.random.default_rng(seed))
            for image, seed in zip(decoded, seeds, strict=True)
        ]
        key = jax.random.fold_in(jax.random.key(config.seed), draw)
        images, _ = transform(jnp.asarray(np.stack(batch)), labels, key)
        pixels = 255 * (np.asarray(images) * std + mean)
        columns.append(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
    return np.stack(columns, axis=1)


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Draw the grid for a config file and flags.

    Raises:
      ConfigError: No output is given, or the config is invalid.
      DataError: There are no training images.
    """
    if not values.output:
        raise ConfigError("--output", "expected a file, such as grid.png")
    output = local_path(values.output, "--output")
    resolved = config_lib.resolve(config_lib.load_config_file(values.config), overrides)
    config = choose_splits(resolved).config
    transforms.check(config.data)
    config, source = _open(config)
    if not len(source):
        raise DataError(f"{source.name}: no image to draw")
    for note in source.notes:
        say(f"note      {note}")
    grid = draws(config, source, values.images, values.draws)
    titles = ["evaluated", *(f"draw {i + 1}" for i in range(values.draws))]
    titles += [""] * (grid.shape[0] * grid.shape[1] - len(titles))
    figure = viz.image_grid(grid.reshape(-1, *grid.shape[2:]), titles, columns=grid.shape[1])
    figure.savefig(output, dpi=120)
    say(f"write     {values.output}  {grid.shape[0]} images of {source.name}")


def _open(config: config_lib.Config) -> tuple[config_lib.Config, Source]:
    """Return the source of the training images, and the config with the data set that it is of."""
    data = config.data
    if data.root:
        return config, open_split(data, "train_split")
    try:
        if data.name:
            return config, open_split(data, "train_split")
        missing = "config.data.name and config.data.root are empty"
    except InputMissingError:
        missing = f"{data.name} is not on this machine"
    height, width = data.image_size
    say(f"note      {missing}: drawing the packaged digits at {height}x{width} pixels")
    data = dataclasses.replace(data, name="digits", train_split="train")
    return dataclasses.replace(config, data=data), open_split(data, "train_split")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_string("config", "", "Config file of a run.", flag_values=values)
    flags.DEFINE_string("output", "", "Image file to write.", flag_values=values)
    flags.DEFINE_integer("images", 6, "Number of rows.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("draws", 7, "Number of draws.", lower_bound=1, flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
