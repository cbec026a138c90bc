"""Models by name.

    models.list_models("vit*")
    model = models.create("vit_s16", num_classes=10)
    variables = model.init(jax.random.key(0), images, train=False)
    output = model.apply(variables, images, train=False)        # models.Output

    models.profile(model)                                       # parameters and GFLOPs

A name is `FAMILY_SIZEPATCH` with any patch, such as `vit_b14`, or `swin_t_w7`; see `presets`.
"""

import dataclasses
import fnmatch
import typing
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.models import presets
from vit_jax.models.checks import check
from vit_jax.models.initialization import abstract_params, init_params
from vit_jax.models.output import Output
from vit_jax.models.profile import Profile, profile
from vit_jax.models.swin import Swin
from vit_jax.models.transformer import Transformer
from vit_jax.models.vit import ViT
from vit_jax.settings.fields import Inherit
from vit_jax.settings.recorded import Settings, calling_line

__all__ = [
    "Output",
    "Profile",
    "Swin",
    "Transformer",
    "ViT",
    "abstract_params",
    "check",
    "create",
    "descriptions",
    "family",
    "features",
    "field_types",
    "forward",
    "inheritance",
    "init_params",
    "list_models",
    "profile",
    "spec",
    "stated_fields",
]

MODULES: dict[str, type[Transformer]] = {"vit": ViT, "swin": Swin}


def list_models(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, such as `vit_b*`."""
    return [name for name in presets.NAMES if fnmatch.fnmatchcase(name, pattern)]


def create(name: str, **overrides: Any) -> Transformer:
    """Create a model by name, with some of its fields overridden.

    Raises:
      ConfigError: No such model or field, or a value is invalid.
    """
    fields = spec(name, **overrides).to_dict()
    check(fields)
    del fields["name"]
    return MODULES[family(name)](**fields)


def family(name: str) -> str:
    """Return the family of a model: `vit` or `swin`.

    Raises:
      ConfigError: No such model.
    """
    preset = presets.find(name)
    if preset is None:
        raise ConfigError("config.model.name", f"unknown '{name}'; {suggest(name, presets.NAMES)}")
    return preset.module


def spec(name: str, **overrides: Any) -> Settings:
    """Return the model section of a config: the name and every field of the model.

    In a config file, the name and the overrides count as set there; the other fields come from the
    preset.

    Raises:
      ConfigError: No such model or field.
    """
    fields = _preset(name)
    for key in overrides:
        if key not in fields:
            problem = f"{name} has no such field; {suggest(key, fields)}"
            raise ConfigError(f"config.model.{key}", problem)
    section = Settings({"name": name, **fields})
    origin = calling_line()
    for key, value in {"name": name, **overrides}.items():
        section.record(key, value, origin)
    return section


def field_types(name: str) -> dict[str, Any]:
    """Return the type of each field of the named model."""
    hints = typing.get_type_hints(MODULES[family(name)])
    return {key: hints[key] for key in _preset(name)}


def descriptions(name: str) -> dict[str, str]:
    """Return the description of each field of the named model."""
    return {field.name: field.metadata["help"] for field in _fields(name)}


def inheritance(name: str) -> dict[str, Inherit]:
    """Return how a run that starts from weights inherits each field of the named model."""
    return {field.name: field.metadata["inherit"] for field in _fields(name)}


def stated_fields(name: str) -> set[str]:
    """Return the fields that a name sets: sizes, patch and those that its family changes."""
    preset = presets.find(name)
    return set(preset.fields) if preset else set()


def forward(
    model: nn.Module, params: Any, images: Float[Array, "b H W c"], key: Array | None = None
) -> Output:
    """Return the output for normalized images; with a random key, in training mode."""
    rngs = None if key is None else {"dropout": key}
    output = model.apply({"params": params}, images, train=key is not None, rngs=rngs)
    return cast(Output, output)


def features(
    model: nn.Module,
    params: Any,
    images: Float[Array, "b H W c"],
    names: Sequence[str],
) -> dict[str, Array]:
    """Return the outputs of submodules by name, such as `blocks_3` or `blocks_11/attn`.

    A name is the path of a submodule, as in the names of its parameters.

    Raises:
      ConfigError: No such submodule.
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
    arrays = {name: value for name, value in outputs.items() if isinstance(value, jax.Array)}
    return {name: pick(arrays, name, "features") for name in names}


def _fields(name: str) -> list[dataclasses.Field[Any]]:
    """Return the declared fields of the named model."""
    of_linen = ("parent", "name")
    fields = dataclasses.fields(MODULES[family(name)])
    return [field for field in fields if field.name not in of_linen]


def _preset(name: str) -> dict[str, Any]:
    """Return every field of the named model, by name."""
    preset = presets.find(name)
    stated = preset.fields if preset else {}
    return {**{field.name: field.default for field in _fields(name)}, **stated}
