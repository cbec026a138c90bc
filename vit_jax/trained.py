"""A trained run, opened from its work directory: what every use of it starts from."""

import dataclasses
import json
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from vit_jax import checkpoint, models, state
from vit_jax import config as config_lib
from vit_jax.errors import InputMissingError


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the parameters of a checkpoint, and what its outputs mean."""

    step: int
    class_names: tuple[str, ...]
    model: nn.Module
    params: Any


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
    workdir: epath.Path, step: str, config: config_lib.Config, mesh: jax.sharding.Mesh
) -> Trained:
    """Restores the parameters to evaluate: the moving average, where the run has one.

    Args:
      workdir: Of the run.
      step: A number, `best`, or `` for the newest good one.
      config: Of the run; the image size may be another by now.
      mesh: The devices.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The one asked for is damaged, or all are, or it is of another model.
    """
    model = models.create(**config.model)
    boxed = state.abstract_params(model, state.image_shape(read_config(workdir).data))
    shapes = state.lay_out(boxed, mesh)
    number, params = checkpoint.load_params(workdir, step, shapes, ema=config.optim.ema_decay > 0)
    return Trained(number, checkpoint.read_class_names(workdir, number), model, params)
