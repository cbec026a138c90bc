"""The arguments of timm's constructors that a document may state: honoured, or refused by name.

An argument that this file does not know may change what the model computes, so it is refused.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError

WHERE = "config.json: model_args"
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# Those that change nothing in evaluation, for images that the patches divide.
HARMLESS = {
    "attn_drop_rate",
    "drop_path_rate",
    "drop_rate",
    "dynamic_img_pad",
    "dynamic_img_size",
    "fix_init",
    "patch_drop_rate",
    "pos_drop_rate",
    "pretrained",
    "proj_drop_rate",
    "strict_img_size",
    "weight_init",
}
# Those whose only value that we compute is the usual one.
USUAL: dict[str, tuple[Any, ...]] = {
    "always_partition": (False,),
    "attn_layer": ("", "attn"),
    "final_norm": (True,),
    "pool_include_prefix": (False,),
    "pos_embed": ("learn",),
    "pre_norm": (False,),
    "proj_bias": (True,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "use_naflex": (False,),
}


def check(arguments: Mapping[str, Any], known: set[str]) -> None:
    """Refuse the arguments that make another model.

    Args:
      arguments: All that are stated.
      known: The names of those that the caller reads.

    Raises:
      DataError: An argument is unknown, or has a value that no model of ours computes with.
    """
    for key, value in arguments.items():
        if key in USUAL and value not in USUAL[key]:
            expected = " or ".join(repr(usual) for usual in USUAL[key] if usual != "")
            raise DataError(f"{WHERE}: {key}: expected {expected}, got {value!r:.40}")
        if key not in known | HARMLESS | USUAL.keys():
            problem = f"unknown argument, which may change the model (its value is {value!r:.40})"
            raise DataError(f"{WHERE}: {key}: {problem}")


def compare(arguments: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """Refuse arguments that contradict the arrays.

    Args:
      arguments: All that are stated.
      shown: What the arrays show, by the names of arguments.

    Raises:
      DataError: An argument has another value.
    """
    for key, value in shown.items():
        stated = arguments.get(key, value)
        if plain(stated) != plain(value):
            problem = f"the document has {stated!r:.40}, the arrays {value!r:.40}"
            raise DataError(f"config.json: {key}: {problem}")


def plain(value: Any) -> Any:
    """Return a value in which a list is a tuple, and two equal sides are one."""
    if isinstance(value, list | tuple):
        values = tuple(plain(item) for item in value)
        return values[0] if len(values) == 2 and values[0] == values[1] else values
    return value


def read_activation(arguments: Mapping[str, Any]) -> str:
    """Return our name of the activation.

    Raises:
      DataError: We do not have it.
    """
    activation = arguments.get("act_layer", "gelu")
    if activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise DataError(f"config.json: act_layer: expected one of {names}, got {activation!r:.40}")
    return ACTIVATIONS[activation]
