"""What `config.json` of transformers says about a model, read and written."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights import swin
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.huggingface import preprocessing
from vit_jax.weights.huggingface.rule_table import (
    MODEL_TYPES,
    class_name,
    find_model_type,
    placeholders,
)
from vit_jax.weights.import_spec import ImportSpec, num_outputs
from vit_jax.weights.rules import Shape

CONFIG = "config.json"
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
SWINS = ("swin", "swinv2")


def describe(shapes: Mapping[str, Shape], documents: Mapping[str, Json], family: str) -> ImportSpec:
    """Return what a folder states: its arrays, `config.json` and `preprocessor_config.json`.

    Args:
      shapes: Shapes of the arrays, by name.
      documents: The documents beside the weights, by file name.
      family: The family of our model, for the preprocessing where no document states it.

    Raises:
      DataError: A document is incomplete, or describes a model that we do not have.
    """
    if CONFIG not in documents:
        raise DataError(f"{CONFIG}: no such file beside the weights; it says what the model is")
    document = documents[CONFIG]
    model_type = read_key(document, "model_type", str, CONFIG)
    if model_type not in MODEL_TYPES:
        problem = f"expected vit, deit, dinov2 or swin, got '{model_type}'"
        raise DataError(f"{CONFIG}: model_type: {problem}")
    is_swiglu = model_type.startswith("dinov2") and document.get("use_swiglu_ffn") is True
    activation = _read_activation(document, is_swiglu)
    data, notes = preprocessing.read(documents.get(preprocessing.FILE), family)
    data["image_size"] = _read_image_size(document)
    num_classes = num_outputs(shapes, f"{placeholders(shapes)['head']}.bias")
    class_names = _read_class_names(document, num_classes)
    fields = {
        "num_classes": num_classes,
        "activation": activation,
        "norm_eps": float(read_key(document, "layer_norm_eps", float | int, CONFIG)),
    }
    if model_type in SWINS:
        swin_fields, sizes = swin.describe_huggingface(shapes, document, CONFIG)
        return ImportSpec(
            fields={**swin_fields, **fields},
            sizes=sizes,
            data=data,
            class_names=class_names,
            notes=notes,
        )
    prefix = placeholders(shapes)["prefix"]
    return ImportSpec(
        fields={**fields, **_vit_fields(shapes, prefix, model_type, num_classes)},
        sizes={
            "num_heads": read_key(document, "num_attention_heads", int, CONFIG),
            "mlp": "swiglu" if is_swiglu else "mlp",
            "stem": "patch",
        },
        positions=shapes.get(f"{prefix}embeddings.position_embeddings", (0, 0))[1],
        num_tokens=2 if model_type == "deit" else 1,
        data=data,
        class_names=class_names,
        notes=notes,
    )


def documents_for(
    fields: Mapping[str, Any], data: Mapping[str, Any], class_names: tuple[str, ...]
) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name.

    Args:
      fields: Fields of the model.
      data: The data section of its config.
      class_names: The classes; empty where they are unknown.

    Raises:
      DataError: The feed-forward network has a size that transformers cannot compute.
    """
    model_type = find_model_type(fields)
    document = _shared_document(fields, data, class_names)
    if model_type in SWINS:
        document |= swin.huggingface_document(fields)
    else:
        document |= {
            "hidden_size": fields["width"],
            "num_hidden_layers": fields["depth"],
            "num_attention_heads": fields["num_heads"],
        }
        is_dino = model_type.startswith("dinov2")
        document |= _dinov2_document(fields) if is_dino else _vit_document(fields)
    return {CONFIG: document, preprocessing.FILE: preprocessing.write(data)}


def _vit_fields(
    shapes: Mapping[str, Shape], prefix: str, model_type: str, num_classes: int
) -> dict[str, Any]:
    """Return the fields of ViT, DeiT and DINOv2 that no document states."""
    has_registers = model_type == "dinov2_with_registers"
    return {
        "norm_order": "pre",
        "representation_size": num_outputs(shapes, f"{prefix}pooler.dense.bias"),
        "pool": "cls_gap" if model_type.startswith("dinov2") and num_classes else "cls",
        "keep_class_token": False,
        "fc_norm": False,
        "posemb": "learned",
        "posemb_prefix": True,
        "posemb_interpolation": "bicubic" if has_registers else "bicubic_torch",
        "posemb_antialias": has_registers,
    }


def _shared_document(
    fields: Mapping[str, Any], data: Mapping[str, Any], class_names: tuple[str, ...]
) -> dict[str, Any]:
    activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    height, width = data["image_size"]
    labels = class_names or [f"LABEL_{i}" for i in range(fields["num_classes"])]
    return {
        "architectures": [class_name(fields)],
        "model_type": find_model_type(fields),
        "hidden_act": activations[fields["activation"]],
        "layer_norm_eps": fields["norm_eps"],
        "image_size": height if height == width else [height, width],
        "patch_size": fields["patch"][0],
        "num_channels": data["channels"],
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _dinov2_document(fields: Mapping[str, Any]) -> dict[str, Any]:
    is_swiglu = fields["mlp"] == "swiglu"
    document = {
        "mlp_ratio": _mlp_ratio(fields["mlp_dim"], fields["width"], is_swiglu),
        "use_swiglu_ffn": is_swiglu,
        "use_mask_token": False,
    }
    if fields["num_registers"]:
        document["num_register_tokens"] = fields["num_registers"]
    return document


def _vit_document(fields: Mapping[str, Any]) -> dict[str, Any]:
    document = {"intermediate_size": fields["mlp_dim"]}
    if fields["representation_size"]:
        document |= {"pooler_output_size": fields["representation_size"], "pooler_act": "tanh"}
    return document


def _mlp_ratio(mlp_dim: int, width: int, is_swiglu: bool) -> int:
    """Return the ratio from which transformers computes the size of the feed-forward network."""
    for ratio in (4, round(mlp_dim / width), round(mlp_dim * 1.5 / width)):
        hidden = (width * ratio * 2 // 3 + 7) // 8 * 8 if is_swiglu else width * ratio
        if hidden == mlp_dim:
            return ratio
    raise DataError(
        f"config.model.mlp_dim: no mlp_ratio of transformers makes {mlp_dim} of {width}"
    )


def _read_activation(document: Json, is_swiglu: bool) -> str:
    activation = read_key(document, "hidden_act", str, CONFIG)
    if activation not in ACTIVATIONS and not is_swiglu:
        problem = f"expected one of {', '.join(ACTIVATIONS)}, got '{activation}'"
        raise DataError(f"{CONFIG}: hidden_act: {problem}")
    return ACTIVATIONS.get(activation, "gelu")


def _read_image_size(document: Json) -> tuple[int, int]:
    size = read_key(document, "image_size", int | list, CONFIG)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{CONFIG}: image_size: expected one or two sizes, got {size!r:.60}")
    return sides[0], sides[1]


def _read_class_names(document: Json, num_classes: int) -> tuple[str, ...]:
    """Return the names where there is a different one for each class, and they are not made up."""
    labels = document.get("id2label")
    if not isinstance(labels, Mapping) or set(labels) != {str(i) for i in range(num_classes)}:
        return ()
    names = tuple(str(labels[str(i)]) for i in range(num_classes))
    are_made_up = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return names if len(set(names)) == num_classes and not are_made_up else ()
