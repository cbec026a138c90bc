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

from vit_jax import __version__, distill, losses, models, optim, schedules, sharding, state
from vit_jax import config as config_lib
from vit_jax.data import mixing, sources, transforms
from vit_jax.data.sources import Source
from vit_jax.errors import ConfigError, DataError, pick

# The splits of a run, and the field of the data section that names each.
SPLITS = {"train": "train_split", "val": "val_split", "test": "test_split"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, checked and laid out over the devices; nothing is computed yet."""

    config: config_lib.Config
    mesh: jax.sharding.Mesh
    splits: Mapping[str, Source]  # train, and val and test where the config has them
    plan: schedules.Plan
    model: models.Transformer
    prepare: mixing.Preparation
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
        data = {SPLITS[name]: source.fingerprint for name, source in self.splits.items()}
        return {"config": config_lib.as_dict(self.config), "data": data}

    def _describe_trainable(self) -> str:
        """Returns how much trains, where that is not all."""
        trains = optim.trainable(self.config.optim, self.shapes.params)
        pairs = zip(jax.tree.leaves(self.shapes.params), jax.tree.leaves(trains), strict=True)
        count = sum(math.prod(leaf.shape) for leaf, train in pairs if train)
        whole = count == self.num_parameters
        return "" if whole else f"{count:,} of the parameters; the rest is frozen"

    def describe(self) -> list[str]:
        """Returns the lines that say what is about to happen."""
        config, devices, train = self.config, self.mesh.devices.flatten(), self.splits["train"]
        mesh = " x ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items() if size > 1)
        sizes = "  ".join(f"{name} {len(source):,}" for name, source in self.splits.items())
        height, width = config.data.image_size
        epochs = self.total_steps * config.batch_size / len(train)
        return [
            f"vit_jax {__version__}  jax {jax.__version__}",
            f"devices   {len(devices)} x {devices[0].device_kind}" + f"  ({mesh})" * bool(mesh),
            f"data      {config.data.root or config.data.name}  {sizes}  "
            f"{len(train.class_names)} classes",
            f"model     {config.model['name']}  {self.num_parameters:,} parameters  "
            f"{height}x{width} pixels  {config.model['dtype']}",
            *(f"attention {text}" for text in [self.model.describe_attention()] if text),
            *(f"training  {text}" for text in [self._describe_trainable()] if text),
            *(f"teacher   {config.distill.teacher}" for _ in [self.teacher] if self.teacher),
            f"plan      {self.total_steps:,} steps = {epochs:.1f} epochs  global batch "
            f"{config.batch_size}  {config.optim.name}  learning rate "
            f"{config.optim.learning_rate}  seed {config.seed}",
        ]


def open_run(config: config_lib.Config, devices: Sequence[jax.Device] | None = None) -> Run:
    """Opens the data, makes model and optimizer, and checks that all of it fits together.

    Args:
      config: The run.
      devices: To run on; all of them unless told which.

    Raises:
      UserError: Something does not; see `errors`.
    """
    transforms.check(config.data)
    mesh = sharding.make_mesh(config.mesh, devices)
    accum_steps = config.optim.accum_steps
    sharding.check_batch_size(config.batch_size, "config.batch_size", mesh, accum_steps)
    loss_fn = pick(losses.LOSSES, config.loss, "config.loss")
    train = sources.load(config.data, SPLITS["train"])
    config = _with_classes(config, train)
    splits = {"train": train} | {
        name: sources.load(config.data, field, train.class_names)
        for name, field in SPLITS.items()
        if name != "train" and getattr(config.data, field)
    }
    model = models.create(**config.model)
    plan = _plan(config, splits["train"])
    boxed = state.abstract_params(model, state.image_shape(config.data))
    tx = optim.make(config.optim, nn.unbox(boxed))
    return Run(
        config=config,
        mesh=mesh,
        splits=splits,
        plan=plan,
        model=model,
        prepare=mixing.preparation(config.data, config.mix),
        loss_fn=loss_fn,
        teacher=distill.open_teacher(config),
        schedule=schedules.make(config.optim, plan),
        tx=tx,
        shapes=state.abstract(boxed, tx, mesh, ema=config.optim.ema_decay > 0),
    )


def _with_classes(config: config_lib.Config, source: Source) -> config_lib.Config:
    """Returns the config with the number of classes that the data have, where it says none."""
    asked, found = config.model["num_classes"], len(source.class_names)
    if asked not in (0, found):
        problem = f"the data set {source.name} has {found} classes, got {asked}; 0 takes them all"
        raise ConfigError("config.model.num_classes", problem)
    return dataclasses.replace(config, model={**config.model, "num_classes": found})


def eval_batch_size(config: config_lib.Config, mesh: jax.sharding.Mesh) -> int:
    """Returns the global batch size of an evaluation, rounded up to what the devices can share."""
    shares = sharding.num_shares(mesh)
    return -(-(config.eval.batch_size or config.batch_size) // shares) * shares


def _plan(config: config_lib.Config, source: Source) -> schedules.Plan:
    if len(source) < config.batch_size:
        raise DataError(
            f"config.data.train_split: '{config.data.train_split}' holds {len(source)} images, "
            f"fewer than one batch of {config.batch_size}"
        )
    return schedules.plan(config, len(source))
