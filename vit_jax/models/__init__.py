"""The models, by name.

    models.list_models("vit*")
    model = models.create("vit_s16", num_classes=10)
    variables = model.init(jax.random.key(0), images, train=False)
    output = model.apply(variables, images, train=False)        # models.Output

    models.profile(model)                                       # parameters and GFLOPs
    pretrained = models.from_pretrained("weights/s16")          # with its preprocessing and labels

A name is `FAMILY_SIZEPATCH`, with any patch, such as `vit_b14`; see `presets`.
"""

import dataclasses
import fnmatch
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import flax.linen as nn
import jax
import ml_collections
from jaxtyping import Array, Float

from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.models import presets, vit
from vit_jax.models.layers import resnet
from vit_jax.models.output import Output
from vit_jax.models.profile import Profile, profile

if TYPE_CHECKING:
    from vit_jax import trained

__all__ = [
    "SIZE_FIELDS",
    "Output",
    "Profile",
    "check",
    "create",
    "features",
    "field_types",
    "forward",
    "from_pretrained",
    "list_models",
    "profile",
    "spec",
]

# What a name stands for.
SIZE_FIELDS = (
    *("width", "depth", "num_heads", "mlp_dim", "mlp"),
    *("patch", "stem", "resnet_layers", "resnet_width"),
)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the registered names that match a shell pattern, such as `vit_b*`."""
    return [name for name in presets.NAMES if fnmatch.fnmatchcase(name, pattern)]


def create(name: str, **overrides: Any) -> nn.Module:
    """Makes a model: the named one's fields, with some of them set otherwise.

    Raises:
      ConfigError: No such model or field, or a field's value is impossible.
    """
    fields = spec(name, **overrides).to_dict()
    check(fields)
    del fields["name"], fields["base"]
    return vit.ViT(**fields)


def spec(name: str, **overrides: Any) -> ml_collections.ConfigDict:
    """Returns the model section of a config: the name, every field of the model, and its base.

    `base` is the name whose fields fill the section, so that another `name` can bring its own.

    Raises:
      ConfigError: No such model or field.
    """
    fields = _preset(name)
    for key in overrides:
        if key not in fields:
            known = suggest(key, fields)
            raise ConfigError(f"config.model.{key}", f"{name} has no such field; {known}")
    tree = {"name": name, **fields, **overrides, "base": name}
    return ml_collections.ConfigDict(tree, type_safe=False)


def from_pretrained(directory: str, *, step: str = "") -> "trained.Pretrained":
    """Returns the model of a run folder or of converted weights, ready to use.

    It has `model`, `params`, `class_names`, and `preprocess(images)`, which gives what the model
    takes.

    Args:
      directory: Of the run.
      step: Of the checkpoint: a number, `best`, or `` for the newest good one.

    Raises:
      InputMissingError: There is no such run or checkpoint.
      CheckpointError: The checkpoint is damaged.
    """
    from vit_jax import trained  # what is trained needs the models

    return trained.from_pretrained(directory, step=step)


def field_types(name: str) -> dict[str, Any]:
    """Returns the type of each field of the named model."""
    hints = typing.get_type_hints(vit.ViT)
    return {key: hints[key] for key in _preset(name)}


def check(fields: Mapping[str, Any]) -> None:
    """Checks a model section's values, and against each other.

    Raises:
      ConfigError: A value is not in its table or its range, or two do not fit.
    """
    path = "config.model."
    for key, table in vit.CHOICES.items():
        pick(table, fields[key], path + key)
    for site in fields["dropout_sites"]:
        pick(dict.fromkeys(vit.DROPOUT_SITES), site, path + "dropout_sites")
    for key in ("width", "depth", "num_heads", "mlp_dim"):
        if fields[key] < 1:
            raise ConfigError(path + key, f"expected at least 1, got {fields[key]}")
    for key in ("num_classes", "num_registers", "representation_size", "layer_scale"):
        if not fields[key] >= 0:
            raise ConfigError(path + key, f"expected at least 0, got {fields[key]}")
    for key in ("dropout", "attn_dropout", "drop_path"):
        if not 0 <= fields[key] < 1:
            raise ConfigError(path + key, f"expected 0 <= rate < 1, got {fields[key]}")
    if not fields["norm_eps"] > 0:
        raise ConfigError(path + "norm_eps", f"expected more than 0, got {fields['norm_eps']}")
    width, num_heads = fields["width"], fields["num_heads"]
    if width % num_heads:
        raise ConfigError(path + "num_heads", f"{num_heads} does not divide width {width}")
    if fields["posemb"] == "sincos2d" and (width % 4 or width < 8):
        raise ConfigError(path + "width", f"sincos2d needs a multiple of 4 from 8, got {width}")
    if fields["distilled"] and (
        fields["pool"] != "cls" or fields["fc_norm"] or fields["representation_size"]
    ):
        problem = "needs the pool cls, and neither fc_norm nor a representation layer"
        raise ConfigError(path + "distilled", problem)
    for key in ("resnet_width", "group_norm_eps"):
        if not fields[key] > 0:
            raise ConfigError(path + key, f"expected more than 0, got {fields[key]}")
    if min(fields["resnet_layers"], default=1) < 1:
        problem = f"expected at least 1 bottleneck a stage, got {fields['resnet_layers']}"
        raise ConfigError(path + "resnet_layers", problem)
    root = round(64 * fields["resnet_width"])
    if fields["stem"] == "resnet" and (not root or root % resnet.NUM_GROUPS):
        problem = f"64 times it is the features of the root: a multiple of {resnet.NUM_GROUPS}"
        raise ConfigError(path + "resnet_width", problem)
    if fields["dtype"] == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ConfigError(path + "dtype", "float64 needs the environment variable JAX_ENABLE_X64=1")
    if len(fields["patch"]) != 2 or min(fields["patch"]) < 1:
        raise ConfigError(path + "patch", f"expected two sizes from 1, got {fields['patch']}")


def forward(
    model: nn.Module, params: Any, images: Float[Array, "b H W c"], key: Array | None = None
) -> Output:
    """Returns the output for normalized images; with a random key, as in training."""
    rngs = None if key is None else {"dropout": key}
    output = model.apply({"params": params}, images, train=key is not None, rngs=rngs)
    return cast(Output, output)


def features(
    model: nn.Module,
    params: Any,
    images: Float[Array, "b H W c"],
    names: Sequence[str],
) -> dict[str, Array]:
    """Returns the outputs of submodules by name, such as `blocks_3` or `blocks_11/attn`.

    A name is the path of a submodule, as in the names of its parameters.

    Raises:
      ConfigError: There is no such submodule.
    """
    _, state = model.apply(
        {"params": params},
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=lambda module, method: method == "__call__" and bool(module.path),
    )
    calls = jax.tree_util.tree_leaves_with_path(
        state["intermediates"], is_leaf=lambda node: isinstance(node, tuple)
    )
    outputs = {"/".join(key.key for key in path[:-1]): value for path, (value,) in calls}
    found = {name: value for name, value in outputs.items() if isinstance(value, jax.Array)}
    return {name: pick(found, name, "features") for name in names}


def _preset(name: str) -> dict[str, Any]:
    """Returns every field of the named model."""
    fields = presets.find(name)
    if fields is None:
        raise ConfigError("config.model.name", f"unknown '{name}'; {suggest(name, presets.NAMES)}")
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(vit.ViT)
        if field.name not in ("parent", "name")
    }
    return {**defaults, **fields}
