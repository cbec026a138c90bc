"""Check the constructor arguments that timm's `config.json` states.

An argument that changes the outputs must have a value that we support. An unknown argument may
change the outputs, so it is refused.
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

# Arguments that do not change the outputs in evaluation, for images of whole patches.
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
# Arguments of which we support the usual value only.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
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
    """Check that the arguments describe a model that we have.

    Args:
      arguments: All stated arguments.
      known: The names of the arguments that the caller reads.

    Raises:
      DataError: An argument is unknown, or has a value that is not supported.
    """
    for key, value in arguments.items():
        if key in SUPPORTED_VALUES and value not in SUPPORTED_VALUES[key]:
            expected = " or ".join(repr(usual) for usual in SUPPORTED_VALUES[key] if usual != "")
            raise DataError(f"{WHERE}: {key}: expected {expected}, got {value!r:.40}")
        if key not in known | HARMLESS | SUPPORTED_VALUES.keys():
            problem = f"unknown argument (value {value!r:.40}), which may change the outputs"
            raise DataError(f"{WHERE}: {key}: {problem}")


def compare(arguments: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
    """Check that the arguments agree with the arrays.

    Args:
      arguments: All stated arguments.
      inferred: The arguments that follow from the arrays.

    Raises:
      DataError: An argument has another value.
    """
    for key, value in inferred.items():
        stated = arguments.get(key, value)
        if normalize(stated) != normalize(value):
            problem = f"the document has {stated!r:.40}, the arrays have {value!r:.40}"
            raise DataError(f"config.json: {key}: {problem}")


def normalize(value: Any) -> Any:
    """Return a comparable value: lists become tuples, and a pair of equal numbers one number."""
    if isinstance(value, list | tuple):
        values = tuple(normalize(item) for item in value)
        return values[0] if len(values) == 2 and values[0] == values[1] else values
    return value


def read_activation(arguments: Mapping[str, Any]) -> str:
    """Return our name of the activation.

    Raises:
      DataError: The activation is not supported.
    """
    activation = arguments.get("act_layer", "gelu")
    if activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise DataError(f"config.json: act_layer: expected one of {names}, got {activation!r:.40}")
    return ACTIVATIONS[activation]
