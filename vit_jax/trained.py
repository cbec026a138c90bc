"""A trained run, opened from its work directory: what every use of it starts from."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from vit_jax import checkpoint, models, sharding, state
from vit_jax import config as config_lib
from vit_jax.data import transforms
from vit_jax.data.images import AnyImage
from vit_jax.data.sources.given import Given
from vit_jax.errors import DataError, InputMissingError
from vit_jax.workdir import open_path


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the parameters of a checkpoint, and what its outputs mean."""

    step: int
    class_names: tuple[str, ...]  # () where nobody knows them
    model: nn.Module
    params: Any

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, or else their numbers."""
        return self.class_names or tuple(map(str, range(self.model.num_classes)))


@dataclasses.dataclass(frozen=True)
class Pretrained(Trained):
    """The same on one device, with what turns images into its input."""

    data: config_lib.Data

    def preprocess(self, images: Sequence[AnyImage]) -> Float[Array, "b h w c"]:
        """Returns what the model takes, for paths, encoded files, Pillow's images or uint8 pixels.

        Raises:
          DataError: An image cannot be read.
        """
        source, pipeline = Given(images, self.class_names), transforms.for_evaluation(self.data)
        generator = np.random.default_rng(0)  # which evaluation does not touch
        batch = np.zeros((len(source), *state.image_shape(self.data)), np.uint8)
        for i, row in enumerate(batch):
            try:
                pixels = pipeline.decode(source[i]["image"])
            except Exception as error:  # decoders raise what they like on a broken file
                raise DataError(f"{source.describe(i)}: {error}") from error
            row[...] = pipeline(pixels, generator)
        return transforms.normalize(jnp.asarray(batch), self.data.mean, self.data.std)


def from_pretrained(directory: str, *, step: str = "") -> Pretrained:
    """Returns the model of a run folder or of converted weights; see `models.from_pretrained`."""
    workdir = open_path(directory, "from_pretrained")
    config = read_config(workdir)
    mesh = sharding.make_mesh(config_lib.Mesh(), jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        run = restore(workdir, step, config, mesh)
    return Pretrained(run.step, run.labels, run.model, run.params, config.data)


def read_config(workdir: epath.Path) -> config_lib.Config:
    """Reads the resolved config of a run from its `config.json`; runs no Python file.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputMissingError(f"{path}: no such file; expected the work directory of a run")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputMissingError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputMissingError(f"{path}: expected the settings of a run, got {values!r:.40}")
    return config_lib.resolve(values)


def restore(
    workdir: epath.Path,
    step: str,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    raw: bool = False,
) -> Trained:
    """Restores the parameters to evaluate: the moving average, where the run has one.

    Args:
      workdir: Of the run.
      step: A number, `best`, or `` for the newest good one.
      config: Of the run; the image size may be another by now.
      mesh: The devices.
      raw: Not the average.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The one asked for is damaged, or all are, or it is of another model.
    """
    model = models.create(**config.model)
    boxed = state.abstract_params(model, state.image_shape(read_config(workdir).data))
    shapes = state.lay_out(boxed, mesh)
    ema = config.optim.ema_decay > 0 and not raw
    number, params = checkpoint.load_params(workdir, step, shapes, ema=ema)
    return Trained(number, checkpoint.read_class_names(workdir, number), model, params)
