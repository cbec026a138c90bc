"""The schema: every setting of a run, its default, its meaning and its range, in one place.

A config file starts from `to_config_dict(Config())`, assigns fields and names a model; see
`resolution` for what else sets them. Off is `0`, `""` or `()`, never `None`.
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

# A duration has a field for each unit, of which one is set.
DURATIONS = {
    name: tuple(f"{name}_{unit}" for unit in ("steps", "epochs", "images"))
    for name in ("total", "optim.warmup", "optim.cooldown")
}


@dataclasses.dataclass(frozen=True)
class Mesh(Section):
    """Devices along each axis; at most one size may be -1: the remaining devices."""

    data: int = field(-1, "devices that share the batch; -1: the remaining devices", low=-1)
    fsdp: int = field(1, "devices that share the batch and the parameters", low=-1)
    tensor: int = field(1, "devices that share heads and hidden units", low=-1)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Devices along each axis of the mesh."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class Eval(Section):
    """When, on what and how to evaluate."""

    every_steps: int = field(
        0, "steps between evaluations on val and sets; 0: only at the end", low=0
    )
    batch_size: int = field(
        0, "global batch size of evaluation; 0: that of training", low=0, high=2**24
    )
    sets: tuple[tuple[str, str], ...] = field(
        (), "further sets: (name, a split such as test[:100], or DATASET:SPLIT)"
    )
    evaluators: tuple[str, ...] = field(
        (), "what is measured: classification; empty: what the objective says"
    )
    best: str = field(
        "", "what chooses the best checkpoint: SET or SET/EVALUATOR; empty: val, if there is one"
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
    """When to save, and how much to keep."""

    every_steps: int = field(1000, "steps between checkpoints; 0: only at the end", low=0)
    keep: int = field(2, "newest checkpoints to keep, besides the best", low=2)


@dataclasses.dataclass(frozen=True)
class Log(Section):
    """What to write, and how often."""

    every_seconds: float = field(10.0, "seconds between progress lines without a terminal", low=0)
    tensorboard: bool = field(True, "write TensorBoard events")


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """A run: all of its settings, resolved and checked."""

    seed: int = field(
        0, "seed of initialization, data order and augmentation", low=0, high=2**32 - 1
    )
    batch_size: int = field(
        128, "global batch size: images per step over all devices", low=1, high=2**24
    )
    total_epochs: float = field(0.0, "length of the run in epochs; set one of the units", low=0)
    total_steps: int = field(0, "length of the run in steps", low=0)
    total_images: int = field(0, "length of the run in images", low=0)
    max_skipped: int = field(10, "non-finite steps in a row that end the run", low=1)
    init_from: str = field(
        "", "run folder or converted weights to start from (their average, if any); empty: random"
    )
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: models.spec("vit_s16").to_dict()
    )
    data: Data = dataclasses.field(default_factory=Data)
    mix: Mix = dataclasses.field(default_factory=Mix)
    objective: Mapping[str, Any] = choice(
        OBJECTIVES, "classification", "what is learned", make=Choice.section
    )
    optim: Optim = dataclasses.field(default_factory=Optim)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    eval: Eval = dataclasses.field(default_factory=Eval)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Log = dataclasses.field(default_factory=Log)


def as_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain dictionaries, strings, numbers and tuples."""
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
    """Return the config as the `ConfigDict` that config files assign to.

    What was passed to `Config(...)` and what is assigned counts as set, all else as default. It
    accepts anything; `resolve` then checks all of it, and knows the paths.
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
    """Yield the path of each leaf that was passed to a section, or to one in it."""
    for key in sorted(section.passed):
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from ((key, *path) for path in _passed(value))
        elif isinstance(value, Mapping):
            yield from ((key, *path.split(".")) for path in flatten(value))
        else:
            yield (key,)


def flatten(tree: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Return the leaves by path: `{"optim.learning_rate": 1e-3, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping)
        leaves |= flatten(value, name + separator, separator) if nested else {name: value}
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of leaves by path."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *sections, key = path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    return tree
