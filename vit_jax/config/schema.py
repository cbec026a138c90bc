"""The schema: every setting of a run, with its default, description and range.

A config file starts from `to_config_dict(Config())`, assigns fields and sets a model. `resolution`
merges it with the other layers. A feature is off at `0`, `""` or `()`; no setting is `None`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax import models
from vit_jax.config.data import Data, Mix
from vit_jax.config.objective import OBJECTIVES
from vit_jax.config.optim import Optim
from vit_jax.settings.choices import Choice, choice
from vit_jax.settings.fields import Section, field
from vit_jax.settings.recorded import Settings, calling_line

# A duration has one field per unit; at most one of them is set.
DURATIONS = {
    name: tuple(f"{name}_{unit}" for unit in ("steps", "epochs", "images"))
    for name in ("total", "optim.warmup", "optim.cooldown")
}


@dataclasses.dataclass(frozen=True)
class Mesh(Section):
    """Devices along each mesh axis; at most one size can be -1, for all remaining devices."""

    data: int = field(
        -1, "devices along the axis that shards the batch; -1: all remaining devices", low=-1
    )
    fsdp: int = field(1, "devices along the axis that shards the batch and the parameters", low=-1)
    tensor: int = field(1, "devices along the axis that shards heads and hidden units", low=-1)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of devices along each axis of the mesh."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class Eval(Section):
    """Evaluation during and after training."""

    every_steps: int = field(
        0, "number of steps between evaluations of val and sets; 0: only at the end", low=0
    )
    batch_size: int = field(
        0, "global batch size of evaluation; 0: the same as for training", low=0, high=2**24
    )
    sets: tuple[tuple[str, str], ...] = field(
        (),
        "further sets to evaluate: (name, split), with a split such as test[:100], "
        "DATASET:SPLIT or FOLDER:SPLIT",
    )
    evaluators: tuple[str, ...] = field(
        (), "evaluators: classification; empty: that of the objective"
    )
    best: str = field(
        "", "evaluation that selects the best checkpoint: SET or SET/EVALUATOR; empty: val, if any"
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
    """Checkpoints."""

    every_steps: int = field(1000, "number of steps between checkpoints; 0: only at the end", low=0)
    keep: int = field(2, "number of newest checkpoints to keep, besides the best", low=2)


@dataclasses.dataclass(frozen=True)
class Log(Section):
    """Progress lines and TensorBoard."""

    every_seconds: float = field(
        10.0, "seconds between progress lines if the output is not a terminal", low=0
    )
    tensorboard: bool = field(True, "write TensorBoard events")
    peak_tflops: float = field(
        0.0,
        "peak TFLOP/s of a device in model.dtype, of which MFU is the share; 0: as its vendor says",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """All settings of a run."""

    seed: int = field(
        0, "random seed of initialization, data order and augmentation", low=0, high=2**32 - 1
    )
    batch_size: int = field(
        128, "global batch size: images per step over all devices", low=1, high=2**24
    )
    total_epochs: float = field(
        0.0, "length of the run in epochs; set one of the three units", low=0
    )
    total_steps: int = field(0, "length of the run in steps", low=0)
    total_images: int = field(0, "length of the run in images", low=0)
    max_skipped: int = field(10, "number of consecutive non-finite steps that ends the run", low=1)
    init_from: str = field(
        "", "run folder or converted weights to start from (the EMA, if any); empty: random weights"
    )
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: models.spec("vit_s16").to_dict()
    )
    data: Data = dataclasses.field(default_factory=Data)
    mix: Mix = dataclasses.field(default_factory=Mix)
    objective: Mapping[str, Any] = choice(
        OBJECTIVES, "classification", "training objective", make=Choice.section
    )
    optim: Optim = dataclasses.field(default_factory=Optim)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    eval: Eval = dataclasses.field(default_factory=Eval)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Log = dataclasses.field(default_factory=Log)


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested dictionaries of strings, numbers and tuples."""
    return {
        f.name: as_dict(value) if dataclasses.is_dataclass(value) else _plain(value)
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def _plain(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _plain(inner) for key, inner in value.items()}


def to_config_dict(config: Config) -> Settings:
    """Return a config as the `ConfigDict` that config files assign to.

    Values that were passed to `Config(...)` or are assigned later count as set, all others as
    defaults. Assignments are not checked here; `resolve` checks everything.
    """
    tree, origin = Settings(as_dict(config)), calling_line()
    for path in _passed(config):
        *sections, key = path
        node = tree
        for section in sections:
            node = node[section]
        node.record(key, node[key], origin)
    return tree


def _passed(section: Section) -> Iterator[tuple[str, ...]]:
    """Yield the path of each leaf that was passed to a section or to a section in it."""
    for key in sorted(section.passed):
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from ((key, *path) for path in _passed(value))
        elif isinstance(value, Mapping):
            yield from ((key, *path.split(".")) for path in flatten(value))
        else:
            yield (key,)


def flatten(tree: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Return the leaves of a tree by path: `{"optim.learning_rate": 1e-3, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping)
        leaves |= flatten(value, name + separator, separator) if nested else {name: value}
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree, given its leaves by path: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *sections, key = path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    return tree
