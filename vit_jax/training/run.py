"""A run: everything that follows from its config, before anything is computed.

Config -> mesh, data, model, loss, schedule, optimizer, shapes and layout of the state
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax

from vit_jax import __version__, models
from vit_jax import config as config_lib
from vit_jax.cluster import sharding
from vit_jax.data import mixing, transforms
from vit_jax.data.sources import Source
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import ConfigError, DataError, pick
from vit_jax.training import distill, losses, optim, schedules, state
from vit_jax.training.parameter_groups import trainable


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, checked and laid out over the devices; nothing is computed yet."""

    config: config_lib.Config
    mesh: jax.sharding.Mesh
    splits: Mapping[str, Source]  # train, and val and test where the config has them
    plan: schedules.Plan
    model: models.Transformer
    batch_transform: mixing.BatchTransform
    loss_fn: losses.Loss
    teacher: distill.Teacher | None
    schedule: schedules.Schedule
    tx: optax.GradientTransformation
    shapes: state.TrainState

    @property
    def total_steps(self) -> int:
        """The number of steps of the run."""
        return self.plan.total

    @property
    def num_parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes.params))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again: the `config`, and the `data` of each split field."""
        data = {config_lib.SPLITS[name]: source.fingerprint for name, source in self.splits.items()}
        return {"config": config_lib.as_dict(self.config), "data": data}

    def restore_teacher(self) -> Any:
        """Return the parameters of the teacher, or an empty tree where there is none."""
        if self.teacher is None:
            return {}
        return self.teacher.restore(self.mesh, self.splits["train"].class_names)

    def describe(self) -> list[str]:
        """Return the lines that say what is about to happen."""
        config = self.config
        height, width = config.data.image_size
        lines = {
            "devices": self._describe_devices(),
            "data": self._describe_data(),
            "model": f"{config.model['name']}  {self.num_parameters:,} parameters  "
            f"{height}x{width} pixels  {config.model['dtype']}",
            "attention": self.model.describe_attention(),
            "training": self._describe_trainable(),
            "teacher": config.distill.teacher,
            "plan": self._describe_plan(),
        }
        header = f"vit_jax {__version__}  jax {jax.__version__}"
        return [header, *(f"{name:<10}{text}" for name, text in lines.items() if text)]

    def _describe_devices(self) -> str:
        devices = self.mesh.devices.flatten()
        axes = " x ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items() if size > 1)
        text = f"{len(devices)} x {devices[0].device_kind}"
        return f"{text}  ({axes})" if axes else text

    def _describe_data(self) -> str:
        data = self.config.data
        sizes = "  ".join(f"{name} {len(source):,}" for name, source in self.splits.items())
        num_classes = len(self.splits["train"].class_names)
        return f"{data.root or data.name}  {sizes}  {num_classes} classes"

    def _describe_trainable(self) -> str:
        """Return how many parameters train, unless all do."""
        trains = trainable(self.config.optim, self.shapes.params)
        pairs = zip(jax.tree.leaves(self.shapes.params), jax.tree.leaves(trains), strict=True)
        count = sum(math.prod(leaf.shape) for leaf, is_trained in pairs if is_trained)
        if count == self.num_parameters:
            return ""
        return f"{count:,} of the parameters; the rest is frozen"

    def _describe_plan(self) -> str:
        config = self.config
        epochs = self.total_steps * config.batch_size / len(self.splits["train"])
        return (
            f"{self.total_steps:,} steps = {epochs:.1f} epochs  global batch {config.batch_size}  "
            f"{config.optim.name}  learning rate {config.optim.learning_rate}  seed {config.seed}"
        )


def open_run(config: config_lib.Config, devices: Sequence[jax.Device] | None = None) -> Run:
    """Open the data, make model and optimizer, and check that all of it fits together.

    Args:
      config: The run.
      devices: To run on; all by default.

    Raises:
      UserError: Something does not; see `errors`.
    """
    transforms.check(config.data)
    mesh = sharding.make_mesh(config.mesh.sizes, devices)
    accum_steps = config.optim.accum_steps
    sharding.check_batch_size(config.batch_size, "config.batch_size", mesh, accum_steps)
    loss_fn = pick(losses.LOSSES, config.loss, "config.loss")
    train_source = open_split(config.data, config_lib.SPLITS["train"])
    config = _with_classes(config, train_source)
    splits = {"train": train_source} | {
        name: open_split(config.data, field, train_source.class_names)
        for name, field in config_lib.SPLITS.items()
        if name != "train" and getattr(config.data, field)
    }
    model = models.create(**config.model)
    plan = _plan(config, train_source)
    boxed = models.abstract_params(model, config.data.image_shape)
    tx = optim.make_optimizer(config.optim, nn.unbox(boxed), models.family(config.model["name"]))
    return Run(
        config=config,
        mesh=mesh,
        splits=splits,
        plan=plan,
        model=model,
        batch_transform=mixing.batch_transform(config.data, config.mix),
        loss_fn=loss_fn,
        teacher=distill.open_teacher(config),
        schedule=schedules.make_schedule(config.optim, plan),
        tx=tx,
        shapes=state.abstract_state(boxed, tx, mesh, ema=config.optim.ema_decay > 0),
    )


def _with_classes(config: config_lib.Config, source: Source) -> config_lib.Config:
    """Return the config with the number of classes that the data have, where it says none."""
    requested = config.model["num_classes"]
    count = len(source.class_names)
    if requested not in (0, count):
        problem = f"the data set {source.name} has {count} classes, got {requested}"
        raise ConfigError("config.model.num_classes", f"{problem}; 0 takes them all")
    return dataclasses.replace(config, model={**config.model, "num_classes": count})


def _plan(config: config_lib.Config, source: Source) -> schedules.Plan:
    if len(source) < config.batch_size:
        raise DataError(
            f"config.data.train_split: '{config.data.train_split}' holds {len(source)} images, "
            f"fewer than one batch of {config.batch_size}"
        )
    return schedules.plan(config, len(source))
