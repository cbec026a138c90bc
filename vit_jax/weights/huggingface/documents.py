"""Read and write the entries of transformers' `config.json` that all families share."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.huggingface.classes import write_classes
from vit_jax.weights.huggingface.keys import CONFIG, with_defaults
from vit_jax.weights.library import Documents, Fields, Shapes

# Our activations by transformers' names. An export writes the first name of each.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
MAX_NUMBER = 1e6  # of a ratio or an epsilon
PROJECTION = "embeddings.patch_embeddings.projection"


def find_prefix(shapes: Shapes, model_types: Sequence[str]) -> str:
    """Return the prefix of the backbone's names in a file; it is empty without a head."""
    prefixes = [f"{name}." for name in model_types if f"{name}.{PROJECTION}.bias" in shapes]
    return prefixes[0] if prefixes else ""


# The `model_type`s of all supported models.
MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", "swin", "swinv2")


def open_config(
    documents: Documents, model_types: Sequence[str]
) -> tuple[Json, str, tuple[str, ...]]:
    """Read the `config.json` beside the weights.

    Args:
      documents: The documents, by file name.
      model_types: The `model_type`s of the family.

    Returns:
      The document with transformers' defaults filled in, its `model_type`, and notes.

    Raises:
      DataError: There is no `config.json`, or it describes a model of another family.
    """
    if CONFIG not in documents:
        problem = "no such file beside the weights; it describes the model: add it"
        raise DataError(f"{CONFIG}: {problem} (weights of timm need --source=timm)")
    model_type = read_key(documents[CONFIG], "model_type", str, CONFIG)
    if model_type not in model_types:
        expected = f"{', '.join(model_types[:-1])} or {model_types[-1]}"
        scope = "" if model_types == MODEL_TYPES else " for this --model"
        problem = f"expected {expected}{scope}, got '{model_type}'"
        raise DataError(f"{CONFIG}: model_type: {problem}")
    document, notes = with_defaults(documents[CONFIG], model_type)
    return document, model_type, notes


def has_model_type(documents: Documents, model_types: Collection[str]) -> bool:
    """Return whether the `config.json` beside the weights has one of some `model_type`s.

    Raises:
      DataError: There is no `config.json`, or its model is not supported.
    """
    _, model_type, _ = open_config(documents, MODEL_TYPES)
    return model_type in model_types


def read_activation(document: Json, key: str) -> str:
    """Return our name of an activation.

    Raises:
      DataError: The activation is not supported.
    """
    name = read_key(document, key, str, CONFIG)
    if name not in ACTIVATIONS:
        problem = f"expected one of {', '.join(ACTIVATIONS)}, got '{name:.60}'"
        raise DataError(f"{CONFIG}: {key}: {problem}")
    return ACTIVATIONS[name]


def read_number(document: Json, key: str) -> float:
    """Return a positive number.

    Raises:
      DataError: The value is not a number in (0, `MAX_NUMBER`).
    """
    number = read_key(document, key, float | int, CONFIG)
    if not 0 < number < MAX_NUMBER:
        raise DataError(f"{CONFIG}: {key}: expected a positive number, got {number!r:.40}")
    return float(number)


def read_bias(document: Json, shapes: Shapes) -> bool:
    """Return whether queries, keys and values have biases.

    Raises:
      DataError: The weights have biases, and the document states that there are none.
    """
    has_bias: bool = read_key(document, "qkv_bias", bool, CONFIG)
    biases = [name for name in shapes if name.endswith(".query.bias")]
    if biases and not has_bias:
        problem = f"expected true, as the weights have {min(biases)}, got false"
        raise DataError(f"{CONFIG}: qkv_bias: {problem}")
    return has_bias


def read_sides(document: Json, key: str) -> tuple[int, int]:
    """Return the size (height, width) of an image or a patch, in pixels.

    Raises:
      DataError: The value is missing, or not one or two positive integers.
    """
    size = read_key(document, key, int | list, CONFIG)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{CONFIG}: {key}: expected one or two sizes, got {size!r:.60}")
    return sides[0], sides[1]


def read_channels(document: Json, shapes: Shapes, prefix: str) -> int:
    """Return the number of image channels.

    Raises:
      DataError: The weights have another number of channels.
    """
    channels: int = read_key(document, "num_channels", int, CONFIG)
    kernel = shapes.get(f"{prefix}{PROJECTION}.weight", ())
    if len(kernel) == 4 and kernel[1] != channels:
        problem = f"expected the {kernel[1]} channels of the weights, got {channels}"
        raise DataError(f"{CONFIG}: num_channels: {problem}")
    return channels


def format_size(size: tuple[int, int]) -> str:
    """Return a size (height, width) as text, such as `224x224`."""
    return f"{size[0]}x{size[1]}"


def write(
    model_type: str, model_class: str, fields: Fields, data: Fields, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the entries of `config.json` that all families share.

    Args:
      model_type: transformers' type of the model.
      model_class: The name of transformers' class.
      fields: The fields of our model, by path, and `objective.loss`.
      data: The data section of our config.
      class_names: The class names; empty if unknown.
    """
    return {
        "architectures": [model_class],
        "model_type": model_type,
        "hidden_act": write_activation(fields.get("mlp.activation", "gelu")),
        "layer_norm_eps": fields["norm_eps"],
        "image_size": _write_sides(data["image_size"]),
        "patch_size": _write_sides(fields["stem.patch"]),
        "num_channels": data["channels"],
        "qkv_bias": fields["attention.qkv_bias"],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **write_classes(fields, class_names),
    }


def write_activation(name: str) -> str:
    """Return transformers' name of one of our activations."""
    names: Mapping[str, str] = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return names[name]


def _write_sides(sides: Sequence[int]) -> int | list[int]:
    height, width = sides
    return height if height == width else [height, width]
