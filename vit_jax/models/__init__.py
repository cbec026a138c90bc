"""The models, by name.

    models.list_models("vit*")
    model = models.create("vit_s16", num_classes=10)
    variables = model.init(jax.random.key(0), images, train=False)
    output = model.apply(variables, images, train=False)        # models.Output

    models.profile(model)                                       # parameters and GFLOPs
    pretrained = models.from_pretrained("weights/s16")          # with its preprocessing and labels

A name is `FAMILY_SIZEPATCH`, with any patch, such as `vit_b14`, or `swin_t_w7`; see `presets`.
"""

import dataclasses
import fnmatch
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import flax.linen as nn
import jax
import ml_collections
from jaxtyping import Array, Float

from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.models import presets
from vit_jax.models.checks import check
from vit_jax.models.output import Output
from vit_jax.models.profile import Profile, profile
from vit_jax.models.swin import Swin
from vit_jax.models.transformer import Transformer
from vit_jax.models.vit import ViT

if TYPE_CHECKING:
    from vit_jax import trained

__all__ = [
    "SHARED_FIELDS",
    "SIZE_FIELDS",
    "Output",
    "Profile",
    "Swin",
    "Transformer",
    "ViT",
    "check",
    "create",
    "features",
    "field_types",
    "forward",
    "from_pretrained",
    "kind",
    "list_models",
    "profile",
    "spec",
]

MODULES: dict[str, type[Transformer]] = {"vit": ViT, "swin": Swin}

# What a name stands for, by the kind of model.
SIZE_FIELDS = {
    "vit": {
        *("width", "depth", "num_heads", "mlp_dim", "mlp"),
        *("patch", "stem", "resnet_layers", "resnet_width"),
    },
    "swin": {"width", "depths", "num_heads", "mlp_ratio", "mlp", "patch", "stem", "window"},
}
# What a model of any kind can take from the config of one of another kind.
SHARED_FIELDS = (
    *("num_classes", "head_bias", "dtype", "attn_dropout"),
    *("dropout", "dropout_sites", "drop_path", "drop_path_schedule"),
)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the registered names that match a shell pattern, such as `vit_b*`."""
    return [name for name in presets.NAMES if fnmatch.fnmatchcase(name, pattern)]


def create(name: str, **overrides: Any) -> Transformer:
    """Makes a model: the named one's fields, with some of them set otherwise.

    Raises:
      ConfigError: No such model or field, or a field's value is impossible.
    """
    fields = spec(name, **overrides).to_dict()
    check(fields)
    del fields["name"], fields["base"]
    return MODULES[kind(name)](**fields)


def kind(name: str) -> str:
    """Returns what the named model is: `vit` or `swin`.

    Raises:
      ConfigError: No such model.
    """
    preset = presets.find(name)
    if preset is None:
        raise ConfigError("config.model.name", f"unknown '{name}'; {suggest(name, presets.NAMES)}")
    return preset.module


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
    hints = typing.get_type_hints(MODULES[kind(name)])
    return {key: hints[key] for key in _preset(name)}


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
    module = MODULES[kind(name)]
    preset = presets.find(name)
    assert preset is not None  # noqa: S101 - for the type checker: kind has found it
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
    }
    return {**defaults, **preset.fields}
