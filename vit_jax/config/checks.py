"""The fields of a config against each other."""

from collections.abc import Mapping
from typing import Any

from vit_jax import models
from vit_jax.config.data import Data
from vit_jax.config.objective import OBJECTIVES
from vit_jax.config.schema import Config
from vit_jax.errors import ConfigError


def check(config: Config) -> None:
    """Check the fields against each other.

    Raises:
      ConfigError: Two do not fit; with the path of one.
    """
    _check_image_size(config, models.create(**config.model))
    _check_channels(config.data)
    _check_objective(config.objective)
    _check_training(config)
    sizes = config.mesh.sizes
    if sizes.count(-1) > 1 or 0 in sizes:
        raise ConfigError("config.mesh", f"expected positive sizes and at most one -1, got {sizes}")


def _check_image_size(config: Config, model: models.Transformer) -> None:
    stride = model.stride
    is_patch = tuple(stride) == tuple(config.model["stem"]["patch"])
    part = "config.model.stem.patch" if is_patch else "the model's stride"
    sides = zip(config.data.image_size, stride, ("height", "width"), strict=True)
    for size, cell, side in sides:
        if size % cell:
            near = max(cell, round(size / cell) * cell)
            problem = f"{side} {size} is not a multiple of {part} {cell}; try {near}"
            raise ConfigError("config.data.image_size", problem)


def _check_channels(data: Data) -> None:
    for key in ("mean", "std"):
        if len(getattr(data, key)) != data.channels:
            problem = f"expected {data.channels} numbers, one a channel"
            raise ConfigError(f"config.data.{key}", problem)


def _check_objective(section: Mapping[str, Any]) -> None:
    fields = {key: value for key, value in section.items() if key != "name"}
    for key, problem in OBJECTIVES[section["name"]](**fields).find_problems():
        raise ConfigError(f"config.objective.{key}", problem)


def _check_training(config: Config) -> None:
    micro = config.optim.accum_steps
    if config.batch_size % micro:
        problem = f"{micro} does not divide config.batch_size {config.batch_size}"
        raise ConfigError("config.optim.accum_steps", problem)
    if config.optim.name == "adam" and config.optim.weight_decay:
        raise ConfigError("config.optim.weight_decay", "adam has none; take optim.name=adamw")
