"""Read the entries of transformers' `config.json` for ViT, DeiT and DINOv2."""

import math
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.huggingface import documents as hf_documents
from vit_jax.weights.huggingface import preprocessing
from vit_jax.weights.huggingface.documents import format_size
from vit_jax.weights.huggingface.keys import CONFIG
from vit_jax.weights.import_spec import num_outputs
from vit_jax.weights.library import Shapes

CLASSES = {  # by model type
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
}
TWO_HEAD_CLASS = "DeiTForImageClassificationWithTeacher"
PROCESSORS = {"vit": "ViT", "deit": "DeiT"}  # default processors by model type; otherwise BiT's
NUM_TOKENS = {"deit": 2}  # class and distillation tokens by model type; otherwise 1


def architectures(model_type: str) -> dict[str, str]:
    """Return the supported classes of transformers, and the name of the head of each."""
    name = CLASSES[model_type]
    classes = {f"{name}Model": "", f"{name}ForImageClassification": "classifier"}
    if not model_type.startswith("dinov2"):
        classes[f"{name}ForMaskedImageModeling"] = ""  # the decoder is an extra tensor
    return classes | ({TWO_HEAD_CLASS: "cls_classifier"} if model_type == "deit" else {})


def read_sizes(document: Json, model_type: str) -> dict[str, Any]:
    """Return the fields of our model that must have the document's values.

    Raises:
      DataError: Sizes are missing, or contradict each other.
    """
    width = read_key(document, "hidden_size", int, CONFIG)
    num_heads = read_key(document, "num_attention_heads", int, CONFIG)
    if document.get("head_dim") not in (None, width / max(1, num_heads)):
        problem = f"expected {width} / {num_heads}, got {document['head_dim']!r:.40}"
        raise DataError(f"{CONFIG}: head_dim: {problem}")
    gated = is_swiglu(document, model_type)
    if model_type.startswith("dinov2"):
        ratio = hf_documents.read_number(document, "mlp_ratio")
        mlp_dim = compute_mlp_dim(width, ratio, gated)
    else:
        mlp_dim = read_key(document, "intermediate_size", int, CONFIG)
    return {
        "width": width,
        "depth": read_key(document, "num_hidden_layers", int, CONFIG),
        "num_heads": num_heads,
        "mlp_dim": mlp_dim,
        "mlp.name": "swiglu" if gated else "mlp",
        "stem.name": "patch",
        "stem.patch": hf_documents.read_sides(document, "patch_size"),
    }


def is_swiglu(document: Json, model_type: str) -> bool:
    """Return whether the feed-forward networks are gated."""
    return model_type.startswith("dinov2") and document.get("use_swiglu_ffn") is True


def read_size(
    document: Json, model_type: str, processed: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int], tuple[str, ...]]:
    """Return the image size of a run, the image size of the position embedding, and notes.

    DINOv2 accepts images of any size: it resamples its position embedding, which is always square.
    The run then has the size that the processor makes. The other models accept only images of
    their own size.

    Args:
      document: The `config.json`.
      model_type: Its `model_type`.
      processed: The size (height, width) that the processor makes; None if unknown.

    Raises:
      DataError: The sizes are not whole patches, or a DINOv2 grid cannot be square.
    """
    stated = hf_documents.read_sides(document, "image_size")
    patch = hf_documents.read_sides(document, "patch_size")
    trained = stated
    if model_type.startswith("dinov2"):
        num_patches = math.prod(n // p for n, p in zip(stated, patch, strict=True))
        side = math.isqrt(num_patches)
        if side**2 != num_patches:
            problem = f"transformers' DINOv2 needs a square grid, got {num_patches} patches"
            raise DataError(f"{CONFIG}: image_size: {problem}")
        trained = (side * patch[0], side * patch[1])
    if processed is None or processed == stated:
        return stated, trained, ()
    both = f"{preprocessing.FILE} makes images of {format_size(processed)}, "
    both += f"{CONFIG} states {format_size(stated)}"
    if model_type.startswith("dinov2"):
        _check_patches(processed, patch, preprocessing.FILE)
        return processed, trained, (f"{both}: the run uses {format_size(processed)}",)
    note = f"{both}, the only size that the model accepts: the run uses {format_size(stated)}"
    return stated, trained, (note,)


def check_positions(document: Json, positions: int, size: tuple[int, int], num_tokens: int) -> None:
    """Check that the position embedding has the rows that the stated image size needs.

    Args:
      document: The `config.json`.
      positions: Number of rows of the position embedding; 0 if there is none.
      size: Image size (height, width) of the position embedding.
      num_tokens: Number of class and distillation tokens.

    Raises:
      DataError: The number of rows differs, or the size is not whole patches.
    """
    patch = hf_documents.read_sides(document, "patch_size")
    _check_patches(size, patch, f"{CONFIG}: image_size")
    expected = num_tokens + math.prod(n // p for n, p in zip(size, patch, strict=True))
    if positions and positions != expected:
        problem = f"{format_size(size)} needs {expected} positions, the weights have {positions}"
        raise DataError(f"{CONFIG}: image_size: {problem}")


def _check_patches(size: tuple[int, int], patch: tuple[int, int], where: str) -> None:
    if any(side % patch_side for side, patch_side in zip(size, patch, strict=True)):
        raise DataError(
            f"{where}: expected whole patches of {format_size(patch)}, got {format_size(size)}"
        )


def read_fields(
    document: Json, shapes: Shapes, prefix: str, num_classes: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of our model, and notes.

    Args:
      document: The `config.json`.
      shapes: Shapes of the arrays in the file, by name.
      prefix: The prefix of the backbone's names in the file.
      num_classes: Number of classes; 0 for a model without a head.

    Raises:
      DataError: A value is missing or not supported.
    """
    model_type = document["model_type"]
    is_dino = model_type.startswith("dinov2")
    has_registers = model_type == "dinov2_with_registers"
    fields = {
        "norm_eps": hf_documents.read_number(document, "layer_norm_eps"),
        "attention.qkv_bias": hf_documents.read_bias(document, shapes),
        "block.name": "pre",
        "attention.name": "auto",
        "distilled": model_type == "deit",
        "block.layer_scale": _read_layer_scale(document) if is_dino else 0.0,
        "num_registers": 0,
        "pool.name": "cls_gap" if is_dino and _is_classifier(document, num_classes) else "cls",
        "keep_class_token": False,
        "pool.fc_norm": False,
        "posemb.name": "learned",
        "posemb.prefix": True,
        "posemb.registers": False,
        "posemb.interpolation": "bicubic" if has_registers else "bicubic_torch",
        "posemb.antialias": has_registers,
    }
    if has_registers:
        fields["num_registers"] = read_key(document, "num_register_tokens", int, CONFIG)
        if fields["num_registers"] < 1:
            raise DataError(f"{CONFIG}: num_register_tokens: expected at least 1")
    if not is_swiglu(document, model_type):
        fields["mlp.activation"] = hf_documents.read_activation(document, "hidden_act")
    size = num_outputs(shapes, f"{prefix}pooler.dense.bias")
    pooler, notes = _read_pooler(document, 0 if num_classes else size)
    if num_classes and size:
        notes = ("the logits do not depend on the pooler; it is ignored",)
    fields |= pooler
    has_second_head = "distillation_classifier.bias" in shapes
    one_head = not has_second_head if num_classes else pooler["representation_size"] > 0
    return {**fields, "distilled_head": not (fields["distilled"] and one_head)}, notes


def _is_classifier(document: Json, num_classes: int) -> bool:
    """Return whether the model is a classifier, possibly one with zero classes."""
    names = document.get("architectures") or []
    return bool(num_classes) or any("ForImageClassification" in name for name in names)


def _read_pooler(document: Json, size: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of a pooler with this number of outputs (0 for none), and notes."""
    if not size:
        return {"representation_size": 0}, ()
    activation = hf_documents.read_activation(document, "pooler_act")
    fields = {"representation_size": size, "representation_activation": activation}
    return fields, (f"the features are the {size} outputs of the pooler",)


def _read_layer_scale(document: Json) -> float:
    """Return the initial value of LayerScale, which is always positive."""
    value = float(read_key(document, "layerscale_value", float | int, CONFIG))
    return value if 0 < value < hf_documents.MAX_NUMBER else 1.0


def compute_mlp_dim(width: int, ratio: float | int, gated: bool) -> int:
    """Return the hidden size of the feed-forward network that transformers computes from a ratio.

    Args:
      width: Width of the tokens.
      ratio: The `mlp_ratio` of the document.
      gated: Whether the network is gated (SwiGLU). Its size is then 2/3, rounded up to 8.
    """
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden
