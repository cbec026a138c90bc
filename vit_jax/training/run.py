"""A run: all objects that follow from its config, before anything is computed.

These are the mesh, the data, the model, the objective, the evaluators, the learning rate schedule,
the optimizer, and the shapes and the sharding of the training state.
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
from vit_jax.cluster.device_specs import find_spec
from vit_jax.config.identity import SETS
from vit_jax.data import transforms
from vit_jax.data.sources import Source
from vit_jax.data.sources.registry import open_set, open_split
from vit_jax.errors import DataError
from vit_jax.evaluation.best import Best, find_best
from vit_jax.evaluation.evaluators import Evaluator, make_evaluators
from vit_jax.models.stacking import Stacks, find_stacks, stack
from vit_jax.training import optim, schedules, state
from vit_jax.training.objectives import Objective, find_objective
from vit_jax.training.parameter_groups import trainable
from vit_jax.training.stacked_state import stack_shapes, unstack_shapes


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is checked and sharded over the devices; nothing is computed yet."""

    config: config_lib.Config
    mesh: jax.sharding.Mesh
    splits: Mapping[str, Source]  # train; val, test and `eval.sets` if the config has them
    plan: schedules.Plan
    model: models.Transformer
    objective: Objective
    evaluators: Mapping[str, Evaluator]
    best: Best | None  # the metric that selects the best checkpoint
    schedule: schedules.Schedule
    tx: optax.GradientTransformation
    stacks: Stacks  # the stacks of the state in training; a checkpoint has none
    shapes: state.TrainState
    trains: Any  # tree of bools: whether a parameter is trained, or frozen

    @property
    def peak_flops(self) -> float | None:
        """The peak floating point operations per second of a device; None if it is not known."""
        device = self.mesh.devices.flat[0]
        spec = find_spec(device.device_kind, getattr(device, "num_cores", None))
        known = spec.flops.get(self.config.model["dtype"]) if spec else None
        return self.config.log.peak_tflops * 1e12 or known

    @property
    def total_steps(self) -> int:
        """The number of steps of the run."""
        return self.plan.total

    @property
    def num_parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes.params))

    @property
    def saved_shapes(self) -> state.TrainState:
        """The shapes of the state as it is saved: by block, without stacks."""
        return unstack_shapes(self.shapes, self.stacks)

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the sets that are evaluated during training."""
        return _watched(self.splits)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user about the images, without duplicates."""
        return tuple(dict.fromkeys(note for s in self.splits.values() for note in s.notes))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The `config` and the `data` of splits and sets, which must be the same on resuming."""
        data: dict[str, Any] = {}
        for name, source in self.splits.items():
            if name in config_lib.SPLITS:
                data[config_lib.SPLITS[name]] = source.fingerprint
            else:
                data.setdefault(SETS, {})[name] = source.fingerprint
        return {"config": config_lib.as_dict(self.config), "data": data}

    def describe(self) -> list[str]:
        """Return a summary of the run, one line per topic."""
        config = self.config
        height, width = config.data.image_size
        lines = {
            "devices": self._describe_devices(),
            "data": self._describe_data(),
            "model": f"{config.model['name']}  {self.num_parameters:,} parameters  "
            f"{height}x{width} pixels  {config.model['dtype']}",
            "attention": self.describe_attention(),
            "training": self._describe_trainable(),
            **self.objective.describe(),
            "plan": self._describe_plan(),
        }
        header = f"vit_jax {__version__}  jax {jax.__version__}"
        return [header, *(f"{name:<10}{text}" for name, text in lines.items() if text)]

    def describe_attention(self) -> str:
        """Return the kernel of the attention on the devices of the run, and the reason."""
        height, width = self.config.data.image_size
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(sharding.RULES):
            return self.model.describe_attention((height, width), self.config.batch_size)

    def _describe_devices(self) -> str:
        devices = self.mesh.devices.flatten()
        axes = " x ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items() if size > 1)
        text = f"{len(devices)} x {devices[0].device_kind}"
        peak = "" if devices[0].platform == "cpu" else "no MFU without log.peak_tflops"
        if self.peak_flops:
            peak = f"{self.peak_flops / 1e12:,.4g} TFLOP/s each"
        return "  ".join(part for part in (text, f"({axes})" if axes else "", peak) if part)

    def _describe_data(self) -> str:
        data = self.config.data
        sizes = "  ".join(f"{name} {len(source):,}" for name, source in self.splits.items())
        num_classes = len(self.splits["train"].class_names)
        return f"{data.root or data.name}  {sizes}  {num_classes} classes"

    def _describe_trainable(self) -> str:
        """Return the number of trainable parameters as text, or `""` if all are trained."""
        pairs = zip(jax.tree.leaves(self.shapes.params), jax.tree.leaves(self.trains), strict=True)
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


def open_run(
    config: config_lib.Config,
    devices: Sequence[jax.Device] | None = None,
    sources: Mapping[str, Source] | None = None,
) -> Run:
    """Open the data, create model and optimizer, and check that they fit together.

    Args:
      config: Config of the run.
      devices: Devices to run on; all by default.
      sources: The source of each split and set, if none is to be opened.

    Raises:
      UserError: The config, the data or the devices do not fit together; see `errors`.
    """
    transforms.check(config.data)
    mesh = sharding.make_mesh(config.mesh.sizes, devices)
    accum_steps = config.optim.accum_steps
    sharding.check_batch_size(config.batch_size, "config.batch_size", mesh, accum_steps)
    train_source = sources["train"] if sources else _open_train(config)
    objective = find_objective(config)
    config = objective.complete(config, train_source)
    model = models.create(**config.model)
    splits = sources or _open_splits(config, train_source, labelled=objective.needs_labels)
    evaluators = make_evaluators(config, model, objective.evaluator)
    plan = _plan(config, train_source)
    boxed = models.abstract_variables(model, config.data.image_shape)
    family = models.family(config.model["name"])
    params = nn.unbox(boxed["params"])
    trains = trainable(config.optim, params)
    stacks = find_stacks(model, lambda block: tuple(jax.tree.leaves(trains[block])))
    tx = optim.make_optimizer(config.optim, params, family, stacks, config.seed)
    ema, param_dtype = config.optim.ema_decay > 0, config.optim.param_dtype
    shapes = state.abstract_state(boxed, tx, mesh, ema=ema, param_dtype=param_dtype)
    return Run(
        config=config,
        mesh=mesh,
        splits=splits,
        plan=plan,
        model=model,
        objective=objective(config, model),
        evaluators=evaluators,
        best=find_best(config, evaluators, _watched(splits)),
        schedule=schedules.make_schedule(config.optim, plan),
        tx=tx,
        stacks=stacks,
        shapes=stack_shapes(shapes, stacks),
        trains=stack(trains, stacks, lambda *layers: layers[0]),
    )


def _open_train(config: config_lib.Config) -> Source:
    return open_split(config.data, config_lib.SPLITS["train"])


def _open_splits(config: config_lib.Config, train: Source, *, labelled: bool) -> dict[str, Source]:
    """Return all sources of a run by name; if labelled, check that they have the same classes."""
    class_names = train.class_names if labelled else ()
    splits = {"train": train}
    for name, field in config_lib.SPLITS.items():
        if name != "train" and getattr(config.data, field):
            splits[name] = open_split(config.data, field, class_names)
    for name, _ in config.eval.sets:
        splits[name] = open_set(config, name, class_names)
    return splits


def _watched(splits: Mapping[str, Source]) -> tuple[str, ...]:
    return tuple(name for name in splits if name not in ("train", "test"))


def _plan(config: config_lib.Config, source: Source) -> schedules.Plan:
    if len(source) < config.batch_size:
        raise DataError(
            f"config.data.train_split: '{config.data.train_split}' holds {len(source)} images, "
            f"fewer than one batch of {config.batch_size}; pass a smaller --config.batch_size"
        )
    return schedules.plan(config, len(source))
