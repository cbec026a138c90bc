"""The schema: every setting of a run, its default, its unit and its range, in one place.

    get_config() -> ConfigDict -> override (flags) -> resolve -> Config (frozen, checked)

A config file starts from `to_config_dict(Config())`, assigns fields and names a model. `resolve` is
the only checker: whatever a file, a flag or a replaced section got wrong, it answers with the full
path. Off is `0`, `""` or `()`, never `None`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from vit_jax import models
from vit_jax.errors import ConfigError, suggest
from vit_jax.fields import build, coerce, field, parse

# A resumed run may change these and stay the same run.
FREE_SECTIONS = ("checkpoint", "log", "mesh")
FREE_KEYS = (
    *("data.data_dir", "data.root", "data.threads", "data.workers"),
    *("init_from", "distill.teacher"),
)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Random affine map of a training image, drawn evenly from +- each value."""

    degrees: float = field(0.0, 0, 180)
    scale: float = field(0.0, 0, 0.99)  # 0.15 scales by 0.85 to 1.15
    shift: float = field(0.0, 0, 1)  # fraction of the image size


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Size of the made-up data set `synthetic`."""

    train_examples: int = field(1024, 0)
    test_examples: int = field(256, 0)
    num_classes: int = field(10, 1)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images, and what happens to them."""

    name: str = "digits"
    data_dir: str = ""  # where prepared data sets live; "" is TFDS's default
    image_key: str = "image"  # features of a TFDS data set
    label_key: str = "label"
    root: str = ""  # takes the place of name: a folder of images, SPLIT/CLASS/* or CLASS/*
    val_share: float = field(0.1, 0, 1)  # of CLASS/*, what makes the split `val`, by name hash
    train_split: str = "train"  # TFDS split arithmetic, such as train[:90%]
    val_split: str = ""  # evaluated while training; chooses the best checkpoint
    test_split: str = "test"  # evaluated once, at the end
    image_size: tuple[int, int] = field((224, 224), 1)  # height, width
    channels: int = field(3, 1)
    background: tuple[int, ...] = field((255, 255, 255), 0, 255)  # behind what is transparent
    max_pixels: int = field(64_000_000, 1, 178_956_970)  # above: refused, from the header
    max_unreadable: float = field(0.01, 0, 1)  # share of a split; above, the run ends
    interpolation: str = "bicubic"
    fit: str = "crop"  # for evaluation: crop the centre of the resized image, or squash it
    crop_fraction: float = field(1.0, 0.01, 1)  # of the resized image, which the crop keeps
    crop: str = "fit"  # of training images: fit (as for evaluation), inception, simple or random
    crop_area: tuple[float, float] = field((0.08, 1.0), 0.001, 1)  # share, of inception
    flip: bool = False  # mirror every other training image
    augment: str = ""  # a policy: randaug(2,15), rand-m9-mstd0.5-inc1, autoaugment, 3-augment, ...
    color_jitter: float = field(0.0, 0, 1)  # of brightness, contrast and colour
    repeats: int = field(1, 1)  # copies of an image in a batch, each transformed anew
    erasing: float = field(0.0, 0, 1)  # probability of a random rectangle of noise
    erasing_fill: str = "pixel"  # noise for each pixel, or each channel; or zero, the mean
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # a channel, of pixels scaled to 0..1
    std: tuple[float, ...] = field((0.5, 0.5, 0.5), 1e-6)
    affine: Affine = Affine()
    synthetic: Synthetic = Synthetic()
    threads: int = field(16, 1)  # that read and transform, in each process
    workers: int = field(0, 0)  # processes; 0 reads in the training process


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixing of the images and labels of a batch. An alpha of 0 leaves the method out."""

    mixup: float = field(0.0, 0)  # alpha of Beta(alpha, alpha)
    cutmix: float = field(0.0, 0)
    probability: float = field(1.0, 0, 1)  # that a batch is mixed at all
    switch: float = field(0.5, 0, 1)  # probability of cutmix where both are there


@dataclasses.dataclass(frozen=True)
class Distill:
    """Learning from a teacher (Hinton et al. 2015; Touvron et al. 2021, DeiT)."""

    teacher: str = ""  # a run folder, or converted weights; "" is none
    kind: str = "hard"  # the teacher's choice as a label, or soft: its probabilities
    alpha: float = field(0.5, 0, 1)  # weight of the teacher's loss; the labels have the rest
    temperature: float = field(1.0, 0.01)  # of soft


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule.

    Weight decay is decoupled from the gradient and multiplied by the learning rate, as optax.adamw
    reads it, whatever the optimizer; `optim.weight_decay` translates that of others.
    """

    name: str = "adamw"
    learning_rate: float = field(1e-3, 0)
    schedule: str = "cosine"
    warmup_steps: int = field(0, 0)  # give one of the three
    warmup_epochs: float = field(0.0, 0)
    warmup_images: int = field(0, 0)
    warmup_learning_rate: float = field(0.0, 0)  # where the warm-up begins
    cooldown_steps: int = field(0, 0)  # the last of the run, linearly to 0; give one of the three
    cooldown_epochs: float = field(0.0, 0)
    cooldown_images: int = field(0, 0)
    end_learning_rate: float = field(0.0, 0)  # of cosine and linear
    timescale: int = field(10_000, 1)  # steps, of rsqrt
    momentum: float = field(0.9, 0, 1)  # of sgd and muon
    b1: float = field(0.9, 0, 1)  # of adam, adamw, lamb, lion, adafactor
    b2: float = field(0.999, 0, 1)
    eps: float = field(1e-8, 0)
    moment_dtype: str = "float32"  # of the first moment; or bfloat16
    weight_decay: float = field(0.0, 0)
    # (pattern, multiplier of weight_decay): the first that matches the whole parameter name counts.
    decay_rules: tuple[tuple[str, float], ...] = ((".*/kernel", 1.0), (".*", 0.0))
    # (pattern, multiplier of learning_rate), likewise.
    rate_rules: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    layer_decay: float = field(1.0, 0, 1)  # of the learning rate from each layer to the one below
    clip_norm: float = field(0.0, 0)  # global gradient norm; 0 is off
    accum_steps: int = field(1, 1)  # micro-batches a step
    sam_radius: float = field(0.0, 0)  # of sharpness-aware minimization; 0 is off
    tune: str = "all"  # or head: a linear probe
    freeze: tuple[str, ...] = ()  # patterns of parameter names that do not train
    ema_decay: float = field(0.0, 0, 1)  # 0 is off; on, the average is what is evaluated first
    ema_warmup: bool = False  # a shorter average in the beginning


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1, once, is all the rest."""

    data: int = field(-1, -1)
    fsdp: int = field(1, -1)
    tensor: int = field(1, -1)


@dataclasses.dataclass(frozen=True)
class Eval:
    """When and how to evaluate."""

    every_steps: int = field(0, 0)  # 0: only at the end
    batch_size: int = field(0, 0)  # 0: the training batch


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save, and how much to keep."""

    every_steps: int = field(1000, 0)  # 0: only at the end
    keep: int = field(2, 2)  # newest; the best is kept besides


@dataclasses.dataclass(frozen=True)
class Log:
    """What to write, and how often to speak."""

    every_seconds: float = field(10.0, 0)  # between progress lines, off a terminal
    tensorboard: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: the whole of it, resolved and checked."""

    seed: int = field(0, 0, 2**32 - 1)
    batch_size: int = field(128, 1)  # images a step, over all devices
    total_epochs: float = field(0.0, 0)  # give one of the three
    total_steps: int = field(0, 0)
    total_images: int = field(0, 0)
    loss: str = "softmax"
    label_smoothing: float = field(0.0, 0, 1)
    max_skipped: int = field(10, 1)  # non-finite steps in a row that end the run
    init_from: str = ""  # a run folder, or converted weights: where the parameters come from
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: _resolve_model({"name": "vit_s16"})
    )
    data: Data = Data()
    mix: Mix = Mix()
    distill: Distill = Distill()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()


def as_dict(config: Any) -> dict[str, Any]:
    """Returns the config as plain dictionaries, strings, numbers and tuples."""
    return {
        f.name: as_dict(value) if dataclasses.is_dataclass(value) else _plain(value)
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """Returns the config as the `ConfigDict` that config files assign to.

    It accepts anything; `resolve` then checks all of it, and knows the paths.
    """
    tree = ml_collections.ConfigDict(as_dict(config), type_safe=False)
    tree.model = models.spec(**config.model)
    return tree


def resolve(tree: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Builds the frozen config from a tree of settings and checks all of it.

    Raises:
      ConfigError: A field is unknown, of the wrong type or impossible; with its full path.
    """
    config = _typed(tree)
    _check(config)
    return config


def override(
    tree: ml_collections.ConfigDict | Mapping[str, Any], overrides: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the tree with fields set from flags, such as `{"optim.learning_rate": "1e-3"}`.

    `model.name` comes first: see `_resolve_model`. Only `resolve` checks the result.

    Raises:
      ConfigError: No such field, or text that is not of the field's type.
    """
    values = as_dict(_typed(tree))
    if "model.name" in overrides:
        model = values["model"]
        renamed = {**model, "base": model["name"], "name": overrides["model.name"]}
        values["model"] = _resolve_model(renamed)
    for path, text in overrides.items():
        *sections, key = path.split(".")
        node: Any = values
        for section in sections:
            node = node.get(section, {}) if isinstance(node, dict) else {}
        if not isinstance(node, dict) or key not in node:
            known = suggest(key, node) if node else suggest(path, flatten(values))
            raise ConfigError(f"config.{path}", f"no such field; {known}")
        if path != "model.name":
            node[key] = parse(text, node[key], f"config.{path}")
    return values


def _typed(tree: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Builds the config; each field is of its type, and nothing else is checked."""
    values = tree.to_dict() if isinstance(tree, ml_collections.ConfigDict) else dict(tree)
    if isinstance(values.get("model"), Mapping):
        values["model"] = _resolve_model(values["model"])
    return build(Config, values, "config")


def flatten(tree: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Returns `{"optim.learning_rate": 1e-3, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        nested = isinstance(value, Mapping)
        leaves |= flatten(value, name + separator, separator) if nested else {name: value}
    return leaves


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the paths that differ and that a resumed run must not change."""
    before, after = flatten(old), flatten(new)
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and key.split(".")[0] not in FREE_SECTIONS
        and key not in FREE_KEYS
    ]


def _resolve_model(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every field of the model that the section names.

    Where the name is another than the section's `base`, the name's sizes and patch are taken, and
    of the other fields those that the section set itself; for a model of another kind only those
    that all kinds share.
    """
    fields = dict(section)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("config.model.name", "expected the name of a model")
    base = fields.pop("base", name)
    if base != name:
        old, kind = models.spec(base).to_dict(), models.kind(name)
        kept = old.keys() - models.SIZE_FIELDS[kind]
        if models.kind(base) != kind:
            kept &= set(models.SHARED_FIELDS)
        fields = {
            key: value
            for key, value in fields.items()
            if key not in old or (key in kept and old[key] != value)
        }
    hints = models.field_types(name)
    for key, value in fields.items():
        path = f"config.model.{key}"
        if key not in hints:
            raise ConfigError(path, f"{name} has no such field; {suggest(str(key), hints)}")
        fields[key] = coerce(value, hints[key], path)
    resolved = models.spec(name, **fields).to_dict()
    del resolved["base"]
    return resolved


def _check(config: Config) -> None:
    """Checks the fields against each other."""
    data, model = config.data, config.model
    models.check(model)
    stride = models.create(**model).stride
    part = "config.model.patch" if tuple(stride) == tuple(model["patch"]) else "the model's stride"
    for size, cell, side in zip(data.image_size, stride, ("height", "width"), strict=True):
        if size % cell:
            near = max(cell, round(size / cell) * cell)
            raise ConfigError(
                "config.data.image_size",
                f"{side} {size} is not a multiple of {part} {cell}; try {near}",
            )
    for key in ("mean", "std"):
        if len(getattr(data, key)) != data.channels:
            raise ConfigError(
                f"config.data.{key}", f"expected {data.channels} numbers, one a channel"
            )
    micro = config.optim.accum_steps
    if config.batch_size % micro:
        raise ConfigError(
            "config.optim.accum_steps",
            f"{micro} does not divide config.batch_size {config.batch_size}",
        )
    if config.loss == "binary" and config.label_smoothing:
        problem = "with loss=binary every target above 0 counts as 1; expected 0"
        raise ConfigError("config.label_smoothing", problem)
    sizes = dataclasses.astuple(config.mesh)
    if sizes.count(-1) > 1 or 0 in sizes:
        raise ConfigError("config.mesh", f"expected positive sizes and at most one -1, got {sizes}")
    if config.optim.name == "adam" and config.optim.weight_decay:
        raise ConfigError("config.optim.weight_decay", "adam has none; take optim.name=adamw")
