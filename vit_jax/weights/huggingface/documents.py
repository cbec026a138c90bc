"""What `config.json` of transformers says about models of every family, read and written."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.library import Documents, Fields, Shapes

CONFIG = "config.json"
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def find_prefix(shapes: Shapes, model_types: Sequence[str]) -> str:
    """Return what the names of the backbone in a file begin with, which is empty without a head."""
    bias = "embeddings.patch_embeddings.projection.bias"
    prefixes = [f"{name}." for name in model_types if f"{name}.{bias}" in shapes]
    return prefixes[0] if prefixes else ""


def open_config(documents: Documents, model_types: Sequence[str]) -> tuple[Json, str]:
    """Return the `config.json` beside the weights, and the type of its model.

    Args:
      documents: The documents, by file name.
      model_types: The types of the models of our family.

    Raises:
      DataError: There is none, or its model is of another family.
    """
    if CONFIG not in documents:
        raise DataError(f"{CONFIG}: no such file beside the weights; it says what the model is")
    document = documents[CONFIG]
    model_type = read_key(document, "model_type", str, CONFIG)
    if model_type not in model_types:
        expected = f"{', '.join(model_types[:-1])} or {model_types[-1]}"
        problem = f"expected {expected} for this --model, got '{model_type}'"
        raise DataError(f"{CONFIG}: model_type: {problem}")
    return document, model_type


def read_numerics(document: Json, has_activation: bool = True) -> dict[str, Any]:
    """Return activation and epsilon.

    Args:
      document: The `config.json`.
      has_activation: Whether the model computes with the activation that is named.

    Raises:
      DataError: They are missing, or there is no such activation.
    """
    activation = read_key(document, "hidden_act", str, CONFIG)
    if activation not in ACTIVATIONS and has_activation:
        problem = f"expected one of {', '.join(ACTIVATIONS)}, got '{activation}'"
        raise DataError(f"{CONFIG}: hidden_act: {problem}")
    return {
        "mlp.activation": ACTIVATIONS.get(activation, "gelu"),
        "norm_eps": float(read_key(document, "layer_norm_eps", float | int, CONFIG)),
    }


def read_image_size(document: Json) -> tuple[int, int]:
    """Return height and width in pixels.

    Raises:
      DataError: They are missing, or no sizes.
    """
    size = read_key(document, "image_size", int | list, CONFIG)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{CONFIG}: image_size: expected one or two sizes, got {size!r:.60}")
    return sides[0], sides[1]


def read_class_names(document: Json, num_classes: int) -> tuple[str, ...]:
    """Return the names where there is a different one for each class, and they are not made up."""
    labels = document.get("id2label")
    if not isinstance(labels, Mapping) or set(labels) != {str(i) for i in range(num_classes)}:
        return ()
    names = tuple(str(labels[str(i)]) for i in range(num_classes))
    are_made_up = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return names if len(set(names)) == num_classes and not are_made_up else ()


def write(
    model_type: str, model_class: str, fields: Fields, data: Fields, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the `config.json` of a model of any family has.

    Args:
      model_type: The type of the model.
      model_class: The name of its class.
      fields: Fields of our model.
      data: The data section of its config.
      class_names: The classes; empty where they are unknown.
    """
    activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    height, width = data["image_size"]
    labels = class_names or [f"LABEL_{i}" for i in range(fields["num_classes"])]
    return {
        "architectures": [model_class],
        "model_type": model_type,
        "hidden_act": activations[fields.get("mlp.activation", "gelu")],
        "layer_norm_eps": fields["norm_eps"],
        "image_size": height if height == width else [height, width],
        "patch_size": fields["stem.patch"][0],
        "num_channels": data["channels"],
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
