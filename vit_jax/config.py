"""The schema: every setting of a run, its default, its unit and its range, in one place.

    get_config() -> ConfigDict -> override (flags) -> resolve -> Config (frozen, checked)

A config file starts from `to_config_dict(Config())`, assigns fields and names a model. `resolve` is
the only checker: whatever a file, a flag or a replaced section got wrong, it answers with the full
path. Off is `0`, `""` or `()`, never `None`.
"""

import ast
import dataclasses
import numbers
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from vit_jax import models
from vit_jax.errors import ConfigError, suggest

# A resumed run may change these and stay the same run.
FREE_SECTIONS = ("checkpoint", "log", "mesh")
FREE_KEYS = ("data.data_dir", "data.threads", "data.workers")

# What a scalar field accepts, and how an error calls it.
SCALARS: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "an integer"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
}


def _field(default: Any, low: int | float | None = None, high: int | float | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@dataclasses.dataclass(frozen=True)
class Affine:
    """Random affine map of a training image, drawn evenly from +- each value."""

    degrees: float = _field(0.0, 0, 180)
    scale: float = _field(0.0, 0, 0.99)  # 0.15 scales by 0.85 to 1.15
    shift: float = _field(0.0, 0, 1)  # fraction of the image size


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Size of the made-up data set `synthetic`."""

    train_examples: int = _field(1024, 0)
    test_examples: int = _field(256, 0)
    num_classes: int = _field(10, 1)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images, and what happens to them."""

    name: str = "digits"
    data_dir: str = ""  # where prepared data sets live; "" is TFDS's default
    train_split: str = "train"  # TFDS split arithmetic, such as train[:90%]
    val_split: str = ""  # evaluated while training; chooses the best checkpoint
    test_split: str = "test"  # evaluated once, at the end
    image_size: tuple[int, int] = _field((224, 224), 1)  # height, width
    channels: int = _field(3, 1)
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # a channel, of pixels scaled to 0..1
    std: tuple[float, ...] = _field((0.5, 0.5, 0.5), 1e-6)
    affine: Affine = Affine()
    synthetic: Synthetic = Synthetic()
    threads: int = _field(16, 1)  # that read and transform, in each process
    workers: int = _field(0, 0)  # processes; 0 reads in the training process


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule. Weight decay is in optax.adamw's units."""

    name: str = "adamw"
    learning_rate: float = _field(1e-3, 0)
    schedule: str = "cosine"
    warmup_steps: int = _field(0, 0)
    end_learning_rate: float = _field(0.0, 0)  # of cosine and linear
    timescale: int = _field(10_000, 1)  # steps, of rsqrt
    momentum: float = _field(0.9, 0, 1)  # of sgd
    b1: float = _field(0.9, 0, 1)  # of adam and adamw
    b2: float = _field(0.999, 0, 1)
    eps: float = _field(1e-8, 0)
    weight_decay: float = _field(0.0, 0)
    # (pattern, multiplier of weight_decay): the first that matches the whole parameter name counts.
    decay_rules: tuple[tuple[str, float], ...] = ((".*/kernel", 1.0), (".*", 0.0))
    clip_norm: float = _field(0.0, 0)  # global gradient norm; 0 is off
    accum_steps: int = _field(1, 1)  # micro-batches a step
    freeze: tuple[str, ...] = ()  # patterns of parameter names that do not train
    ema_decay: float = _field(0.0, 0, 1)  # 0 is off; on, the average is what is evaluated


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1, once, is all the rest."""

    data: int = _field(-1, -1)
    fsdp: int = _field(1, -1)
    tensor: int = _field(1, -1)


@dataclasses.dataclass(frozen=True)
class Eval:
    """When and how to evaluate."""

    every_steps: int = _field(0, 0)  # 0: only at the end
    batch_size: int = _field(0, 0)  # 0: the training batch


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save, and how much to keep."""

    every_steps: int = _field(1000, 0)  # 0: only at the end
    keep: int = _field(2, 2)  # newest; the best is kept besides


@dataclasses.dataclass(frozen=True)
class Log:
    """What to write, and how often to speak."""

    every_seconds: float = _field(10.0, 0)  # between progress lines, off a terminal
    tensorboard: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: the whole of it, resolved and checked."""

    seed: int = _field(0, 0)
    batch_size: int = _field(128, 1)  # images a step, over all devices
    total_epochs: float = _field(0.0, 0)  # give this,
    total_steps: int = _field(0, 0)  # or this
    loss: str = "softmax"
    label_smoothing: float = _field(0.0, 0, 1)
    max_skipped: int = _field(10, 1)  # non-finite steps in a row that end the run
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: _resolve_model({"name": "vit_s16"})
    )
    data: Data = Data()
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
    values = tree.to_dict() if isinstance(tree, ml_collections.ConfigDict) else dict(tree)
    if isinstance(values.get("model"), Mapping):
        values["model"] = _resolve_model(values["model"])
    config = _build(Config, values, "config")
    _check(config)
    return config


def override(tree: ml_collections.ConfigDict, overrides: Mapping[str, str]) -> None:
    """Sets fields by dotted path, such as `{"optim.learning_rate": "1e-3"}`, from flags.

    A new `model.name` comes first: it brings the other model's sizes, and keeps what the config
    file had set on top of the old one's.

    Raises:
      ConfigError: No such field, or text that is not of the field's type.
    """
    if "model.name" in overrides:
        section = dict(tree.model.to_dict(), name=overrides["model.name"])
        tree.model = models.spec(**_resolve_model(section))
    for path, text in overrides.items():
        if path == "model.name":
            continue
        *sections, key = path.split(".")
        node: Any = tree
        for section_name in sections:
            node = node.get(section_name) if isinstance(node, ml_collections.ConfigDict) else None
        if not isinstance(node, ml_collections.ConfigDict) or key not in node:
            known = suggest(path, flatten(tree.to_dict()))
            raise ConfigError(f"config.{path}", f"no such field; {known}")
        node[key] = _parse(text, node[key], f"config.{path}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `{"optim.learning_rate": 1e-3, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        leaves |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
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
    """Takes the named model's fields and lays on top what differs from the section's own base."""
    fields = dict(section)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("config.model.name", "expected the name of a model")
    base = fields.pop("base", name)
    old = models.spec(base).to_dict() if base != name else {}
    changed = {k: v for k, v in fields.items() if base == name or k not in old or old[k] != v}
    hints = models.field_types(name)
    for key, value in changed.items():
        path = f"config.model.{key}"
        if key not in hints:
            raise ConfigError(path, f"{name} has no such field; {suggest(key, hints)}")
        changed[key] = _coerce(value, hints[key], path)
    resolved = models.spec(name, **changed).to_dict()
    del resolved["base"]
    return resolved


def _build(schema: type, values: Mapping[str, Any], path: str) -> Any:
    """Builds one section from a mapping; missing fields take their defaults."""
    hints = typing.get_type_hints(schema)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{path}.{key}", f"no such field; {suggest(key, hints)}")
    ranges = {f.name: f.metadata for f in dataclasses.fields(schema)}
    built = {}
    for key, value in values.items():
        built[key] = _coerce(value, hints[key], f"{path}.{key}")
        _check_range(built[key], f"{path}.{key}", **ranges[key])
    return schema(**built)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """Returns the value in the schema's type; JSON's lists become tuples, integers floats."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(path, f"expected a section, got {value!r}")
        return _build(hint, value, path)
    if hint in SCALARS:
        if isinstance(value, SCALARS[hint][0]) and isinstance(value, bool) == (hint is bool):
            return hint(value)
    elif typing.get_origin(hint) is tuple and isinstance(value, tuple | list):
        args = typing.get_args(hint)
        items = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(items) == len(value):
            pairs = enumerate(zip(value, items, strict=True))
            return tuple(_coerce(v, t, f"{path}[{i}]") for i, (v, t) in pairs)
    elif typing.get_origin(hint) is Mapping and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(path, f"expected {_describe(hint)}, got {value!r}")


def _describe(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        count = "any number" if args[-1] is Ellipsis else str(len(args))
        return f"a tuple of {count} ({_describe(args[0])})"
    return SCALARS[hint][1] if hint in SCALARS else "a section"


def _check_range(
    value: Any, path: str, low: int | float | None = None, high: int | float | None = None
) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        if low is not None and not item >= low:
            raise ConfigError(path, f"expected at least {low}, got {item}")
        if high is not None and not item <= high:
            raise ConfigError(path, f"expected at most {high}, got {item}")


def _parse(text: str, like: Any, path: str) -> Any:
    """Reads a flag's text as the type of the value it replaces."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        words = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
        raise ConfigError(path, f"expected true or false, got {text!r}")
    if isinstance(like, tuple) and text[:1] not in ("(", "["):
        text = f"({text.rstrip(',')},)" if text else "()"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if isinstance(like, tuple):  # of bare words, such as patterns
            return tuple(word.strip() for word in text.strip("(),[]").split(","))
        raise ConfigError(path, f"expected {_describe(type(like))}, got {text!r}") from None


def _check(config: Config) -> None:
    """Checks the fields against each other."""
    data, model = config.data, config.model
    if (config.total_epochs > 0) == (config.total_steps > 0):
        raise ConfigError("config.total_steps", "give either total_steps or total_epochs")
    for size, patch, side in zip(data.image_size, model["patch"], ("height", "width"), strict=True):
        if size % patch:
            near = max(patch, round(size / patch) * patch)
            raise ConfigError(
                "config.data.image_size",
                f"{side} {size} is not a multiple of config.model.patch {patch}; try {near}",
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
    sizes = dataclasses.astuple(config.mesh)
    if sizes.count(-1) > 1 or 0 in sizes:
        raise ConfigError("config.mesh", f"expected positive sizes and at most one -1, got {sizes}")
    if config.optim.name == "adam" and config.optim.weight_decay:
        raise ConfigError("config.optim.weight_decay", "adam has none; take optim.name=adamw")
    models.check(model)
