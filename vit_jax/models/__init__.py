"""Models by name.

    models.list_models("vit*")
    model = models.create("vit_s16", num_classes=10)
    variables = model.init(jax.random.key(0), images, train=False)
    output = models.forward(model, variables, images)           # models.Output

    models.profile(model)                                       # parameters and GFLOPs

`presets` defines the names: those of the published models, and others such as `vit_b14`. Each name
belongs to a family of models, which has a record in `families`.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax.errors import pick
from vit_jax.models.families import FAMILIES, Family, family, list_names, stated_fields
from vit_jax.models.initialization import abstract_variables, init_variables
from vit_jax.models.output import Output
from vit_jax.models.parts import Part
from vit_jax.models.profile import Profile, profile
from vit_jax.models.spec import (
    all_declarations,
    create,
    declarations,
    part_choices,
    part_names,
    preset,
    spec,
)
from vit_jax.models.swin import Swin
from vit_jax.models.transformer import Transformer
from vit_jax.models.vit import ViT

__all__ = [
    "FAMILIES",
    "Family",
    "Output",
    "Part",
    "Profile",
    "Swin",
    "Transformer",
    "ViT",
    "abstract_variables",
    "all_declarations",
    "create",
    "declarations",
    "family",
    "features",
    "forward",
    "forward_train",
    "init_variables",
    "list_models",
    "part_choices",
    "part_names",
    "preset",
    "profile",
    "spec",
    "stated_fields",
]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of models that match a shell pattern such as `vit_b*`."""
    return [name for name in list_names() if fnmatch.fnmatchcase(name, pattern)]


def forward(
    model: nn.Module, variables: Mapping[str, Any], images: Float[Array, "b H W c"]
) -> Output:
    """Apply a model in evaluation mode.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
    """
    return cast(Output, model.apply(variables, images, train=False))


def forward_train(
    model: nn.Module, variables: Mapping[str, Any], images: Float[Array, "b H W c"], key: Array
) -> tuple[Output, dict[str, Any]]:
    """Apply a model in training mode.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
      key: Random key for dropout and stochastic depth.

    Returns:
      The output, and the updated collections besides `params`, such as batch statistics.
    """
    mutable = [name for name in variables if name != "params"]
    rngs = {"dropout": key}
    output, collections = model.apply(variables, images, train=True, rngs=rngs, mutable=mutable)
    return cast(Output, output), dict(collections)


def features(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Float[Array, "b H W c"],
    names: Sequence[str],
) -> dict[str, Array]:
    """Return the outputs of submodules in evaluation mode, by name.

    Args:
      model: The model.
      variables: Its `params` and other collections.
      images: Normalized images.
      names: Paths of submodules as in parameter names, such as `blocks_3` or `blocks_11/attn`.

    Raises:
      ConfigError: There is no submodule of that name.
      TypeError: `names` is a string instead of a sequence of strings.
    """
    if isinstance(names, str):
        raise TypeError(f"features: expected a sequence of names, got a string; use ['{names}']")
    _, state = model.apply(
        variables,
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=lambda module, method: method == "__call__" and bool(module.path),
    )
    calls = jax.tree_util.tree_leaves_with_path(
        state["intermediates"], is_leaf=lambda node: isinstance(node, tuple)
    )
    outputs = {"/".join(key.key for key in path[:-1]): value for path, (value,) in calls}
    arrays = {name: value for name, value in outputs.items() if isinstance(value, jax.Array)}
    return {name: pick(arrays, name, "features") for name in names}
