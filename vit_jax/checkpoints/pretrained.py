"""Open a trained run from its work directory, for inference or fine-tuning."""

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
from vit_jax.console.waiting import waiting
from vit_jax.console.workdir import open_path
from vit_jax.data import transforms
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import CheckpointError, DataError


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the variables of a checkpoint, and the names of its classes."""

    step: int
    class_names: tuple[str, ...]  # () if unknown
    model: nn.Module
    variables: dict[str, Any]  # by collection: `params` and the others of the model
    weights: str  # `ema` or `raw`; empty for a run with one set of weights

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names; the class indices if the names are unknown."""
        return self.class_names or tuple(map(str, range(self.model.num_classes)))


@dataclasses.dataclass(frozen=True)
class Pretrained(Trained):
    """A `Trained` model on one device, with its preprocessing."""

    data: config_lib.Data

    def preprocess(self, images: Any) -> Float[Array, "b h w c"]:
        """Preprocess images as in evaluation: resize, crop and normalize.

        Args:
          images: A sequence of images: paths, PIL images, or uint8 arrays (h, w, c). See
            `predict.Predictor`.

        Returns:
          Normalized images (b, h, w, c), float32, at the image size of the model.

        Raises:
          DataError: An image cannot be read.
          TypeError: `images` is a single image, or not a sequence.
        """
        source = InMemory(images, self.class_names)
        pipeline = transforms.for_evaluation(self.data)
        generator = np.random.default_rng(0)  # unused in evaluation
        batch = np.zeros((len(source), *self.data.image_shape), np.uint8)
        for i, row in enumerate(batch):
            try:
                pixels = pipeline.decode(source[i]["image"])
            except Exception as error:  # decoders raise any exception on a corrupt file
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
    """Open the model of a run or of imported weights, ready to use.

        pretrained = from_pretrained("runs/digits")
        images = pretrained.preprocess(["a.jpg", "b.png"])
        output = models.forward(pretrained.model, pretrained.variables, images)

    Args:
      directory: The run folder.
      step: A step number, `best`, or an empty string for the newest intact checkpoint.
      weights: `ema` for the exponential moving average of the weights, or `raw`. The default is
        `ema` if the run has one.
      allow_config_change: Keys of `config.json` that may differ from the config that the checkpoint
        was trained with, such as `data.mean`.

    Returns:
      The model and its variables, on one device.

    Raises:
      InputMissingError: There is no such run or checkpoint.
      CheckpointError: The checkpoint is corrupt, or was trained with another config.
      ConfigError: The run does not have the requested `weights`.
    """
    workdir = open_path(directory, "from_pretrained")
    config = config_lib.read_config(workdir)
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        run = restore(
            workdir, str(step), config, mesh, weights=weights, allowed=allow_config_change
        )
    return Pretrained(run.step, run.labels, run.model, run.variables, run.weights, config.data)


def open_run(
    workdir: epath.Path,
    step: str,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    weights: str = "",
    allowed: Sequence[str] | None = None,
    aside: bool = False,
) -> Trained:
    """Restore a model for a command, and say what it waits for; see `restore`.

    Args:
      workdir: The run folder.
      step: A step number, `best`, or an empty string for the newest intact checkpoint.
      config: The config of the run.
      mesh: The devices that the variables are sharded over.
      weights: `ema`, `raw`, or an empty string for `ema` if the run has an EMA.
      allowed: Keys of `config.json` that may differ; see `restore`.
      aside: Whether to print on stderr if stdout is not a terminal.
    """
    with jax.set_mesh(mesh), waiting("verifying and restoring the checkpoint", aside=aside):
        return restore(workdir, step, config, mesh, weights=weights, allowed=allowed)


def restore(
    workdir: epath.Path,
    step: str,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    weights: str = "",
    allowed: Sequence[str] | None = None,
) -> Trained:
    """Restore a model and its variables onto a mesh, for evaluation.

    Args:
      workdir: The run folder.
      step: A step number, `best`, or an empty string for the newest intact checkpoint.
      config: The config of the run. Its image size may differ from the stored one.
      mesh: The devices that the variables are sharded over.
      weights: `ema`, `raw`, or an empty string for `ema` if the run has an EMA.
      allowed: Keys of `config.json` that may differ from the config that the checkpoint was trained
        with. None if the command has no flag to allow any.

    Returns:
      The model, its variables as sharded `jax.Array`s, which weights they are, the step and the
      class names.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The requested checkpoint is corrupt, or all of them are; or it belongs to
        another model, or was trained with another config.
      ConfigError: The run does not have the requested `weights`.
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
        problem = f"step {number} has {len(class_names)} class names"
        raise CheckpointError(f"{workdir}: {problem}, the model {model.num_classes} classes")
    return Trained(number, class_names, model, variables, average.kind(stored, weights))
