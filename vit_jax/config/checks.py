"""Checks that involve several fields of a config."""

from collections.abc import Mapping
from typing import Any

from vit_jax import models
from vit_jax.config.data import SPLITS, Data
from vit_jax.config.objective import OBJECTIVES
from vit_jax.config.schema import Config, Eval
from vit_jax.errors import ConfigError


def check(config: Config) -> None:
    """Check the combinations of fields.

    Raises:
      ConfigError: Two fields contradict each other; the path is that of one of them.
    """
    _check_image_size(config, models.create(**config.model))
    _check_channels(config.data)
    _check_objective(config.objective)
    _check_training(config)
    _check_eval(config.eval)
    sizes = config.mesh.sizes
    if sizes.count(-1) > 1 or 0 in sizes:
        raise ConfigError("config.mesh", f"expected positive sizes and at most one -1, got {sizes}")


def _check_image_size(config: Config, model: models.Transformer) -> None:
    stride = model.stride
    is_patch = tuple(stride) == tuple(config.model["stem"]["patch"])
    divisor_name = "config.model.stem.patch" if is_patch else "the stride of the model"
    sides = zip(config.data.image_size, stride, ("height", "width"), strict=True)
    for size, divisor, side in sides:
        if size % divisor:
            nearest = max(divisor, round(size / divisor) * divisor)
            problem = f"{side} {size} is not a multiple of {divisor_name} {divisor}; try {nearest}"
            raise ConfigError("config.data.image_size", problem)


def _check_channels(data: Data) -> None:
    for key in ("mean", "std"):
        if len(getattr(data, key)) != data.channels:
            problem = f"expected {data.channels} numbers, one per channel"
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
        raise ConfigError(
            "config.optim.weight_decay", "adam does not support weight decay; use optim.name=adamw"
        )


def _check_eval(section: Eval) -> None:
    taken = set(SPLITS)
    for i, (name, where) in enumerate(section.sets):
        path = f"config.eval.sets[{i}]"
        if not name or "/" in name or name.endswith("_raw"):
            raise ConfigError(path, f"expected a name without '/' or '_raw', got '{name}'")
        if name in taken:
            raise ConfigError(path, f"the name '{name}' is taken; expected a new one")
        if not where:
            raise ConfigError(path, f"'{name}' names no images; expected SPLIT or DATASET:SPLIT")
        taken.add(name)
    if len(set(section.evaluators)) < len(section.evaluators):
        problem = f"expected different names, got {', '.join(section.evaluators)}"
        raise ConfigError("config.eval.evaluators", problem)
