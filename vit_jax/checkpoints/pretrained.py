"""A trained run, opened from its work directory: what every use of it starts from."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import average, reading
from vit_jax.cluster import sharding
from vit_jax.console.workdir import open_path
from vit_jax.data import transforms
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import CheckpointError, DataError


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the variables of a checkpoint, and what its outputs mean."""

    step: int
    class_names: tuple[str, ...]  # () where nobody knows them
    model: nn.Module
    variables: dict[str, Any]  # `params`, and the model's other collections

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, or else their numbers."""
        return self.class_names or tuple(map(str, range(self.model.num_classes)))


@dataclasses.dataclass(frozen=True)
class Pretrained(Trained):
    """The same on one device, with what turns images into its input."""

    data: config_lib.Data

    def preprocess(self, images: Any) -> Float[Array, "b h w c"]:
        """Return what the model takes, for all images that `predict.Predictor` takes.

        Raises:
          DataError: An image cannot be read.
          TypeError: It is a single image, or nothing that has an order.
        """
        source = InMemory(images, self.class_names)
        pipeline = transforms.for_evaluation(self.data)
        generator = np.random.default_rng(0)  # which evaluation does not touch
        batch = np.zeros((len(source), *self.data.image_shape), np.uint8)
        for i, row in enumerate(batch):
            try:
                pixels = pipeline.decode(source[i]["image"])
            except Exception as error:  # decoders raise what they like on a broken file
                raise DataError(f"{source.describe(i)}: {error}") from error
            row[...] = pipeline(pixels, generator)
        return transforms.normalize(jnp.asarray(batch), self.data.mean, self.data.std)


def from_pretrained(
    directory: str,
    *,
    step: str | int = "",
    weights: str = "",
    allow_config_change: Sequence[str] = (),
) -> Pretrained:
    """Return the model of a run folder or of converted weights, ready to use.

        pretrained = from_pretrained("runs/digits")
        images = pretrained.preprocess(["a.jpg", "b.png"])
        output = models.forward(pretrained.model, pretrained.variables, images)

    Args:
      directory: Of the run.
      step: Of the checkpoint: a number, `best`, or `` for the newest good one.
      weights: `ema`, the moving average, which is the default where the run has one, or `raw`.
      allow_config_change: Keys of its `config.json` that may differ from what the checkpoint was
        trained with, such as `data.mean`.

    Raises:
      InputMissingError: There is no such run or checkpoint.
      CheckpointError: The checkpoint is damaged, or was trained with another config.
      ConfigError: The run has no such weights.
    """
    workdir = open_path(directory, "from_pretrained")
    config = config_lib.read_config(workdir)
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        run = restore(
            workdir, str(step), config, mesh, weights=weights, allowed=allow_config_change
        )
    return Pretrained(run.step, run.labels, run.model, run.variables, config.data)


def restore(
    workdir: epath.Path,
    step: str,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    weights: str = "",
    allowed: Sequence[str] | None = None,
) -> Trained:
    """Restore the variables to evaluate: the moving average, where the run has one.

    Args:
      workdir: Of the run.
      step: A number, `best`, or `` for the newest good one.
      config: Of the run; the image size may be another by now.
      mesh: The devices.
      weights: `ema` or `raw`, where the run has both; the average if empty.
      allowed: Keys of its `config.json` that may differ from what the checkpoint was trained with;
        None where the user has no flag to say so.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The one asked for is damaged, or all are, or it is of another model, or was
        trained with another config.
      ConfigError: The run has no such weights.
    """
    model = models.create(**config.model)
    stored = config_lib.read_config(workdir)
    boxed = models.abstract_variables(model, stored.data.image_shape)
    shapes = {name: sharding.sharded_shapes(tree, mesh) for name, tree in boxed.items()}
    ema = average.takes_average(stored, weights)
    number, variables = reading.load_variables(
        workdir, step, shapes, ema=ema, stored=stored, allowed=allowed
    )
    class_names = reading.read_class_names(workdir, number)
    if 0 < len(class_names) < model.num_classes:
        problem = f"step {number} names {len(class_names)} classes, the model has"
        raise CheckpointError(f"{workdir}: {problem} {model.num_classes}")
    return Trained(number, class_names, model, variables)
