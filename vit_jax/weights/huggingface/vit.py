"""ViT, DeiT with its teacher, and DINOv2 of transformers."""

import pathlib
from collections.abc import Iterator
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.huggingface import documents as hf_documents
from vit_jax.weights.huggingface import original, preprocessing
from vit_jax.weights.huggingface.documents import CONFIG
from vit_jax.weights.import_spec import HALF, IMAGENET, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule


def embeddings() -> Iterator[Rule]:
    """Yield the rules of patches, tokens and positions."""
    theirs = "{prefix}embeddings."
    yield from linear(theirs + "patch_embeddings.projection", "stem/proj", CONV)
    yield Rule(theirs + "cls_token", "cls_token", "1 n d -> n d")
    yield Rule(theirs + "distillation_token", "dist_token", "1 n d -> n d")
    yield Rule(theirs + "register_tokens", "registers", "1 n d -> n d")
    yield Rule(theirs + "position_embeddings", ("posemb/prefix", "posemb/grid"), "1 n d -> n d")
    yield Rule(theirs + "mask_token")  # of the pre-training


def attention() -> Iterator[Rule]:
    """Yield the rules of self-attention."""
    theirs = "{prefix}encoder.layer.{i}.attention."
    ours = "blocks_{i}/attn/"
    layers = [f"{theirs}attention.{name}" for name in ("query", "key", "value")]
    weights = tuple(f"{layer}.weight" for layer in layers)
    biases = tuple(f"{layer}.bias" for layer in layers)
    yield Rule(weights, f"{ours}qkv/kernel", "s (h c) d -> d s h c")
    yield Rule(biases, f"{ours}qkv/bias", "s (h c) -> s h c")
    yield from linear(f"{theirs}output.dense", f"{ours}out", "d (h c) -> h c d")


def blocks() -> Iterator[Rule]:
    """Yield the rules of the encoder's blocks, in ViT's names and in DINOv2's."""
    theirs = "{prefix}encoder.layer.{i}."
    ours = "blocks_{i}/"
    yield from norm(theirs + "{norm1}", f"{ours}norm1")
    yield from attention()
    yield from norm(theirs + "{norm2}", f"{ours}norm2")
    yield from linear(theirs + "{fc1}", f"{ours}mlp/fc1")
    yield from linear(theirs + "{fc2}", f"{ours}mlp/fc2")
    for k in "12":
        yield Rule(f"{theirs}layer_scale{k}.lambda1", f"{ours}scale{k}/scale")


RULES: tuple[Rule, ...] = (
    *embeddings(),
    *blocks(),
    *norm("{prefix}layernorm", "norm"),
    *linear("{prefix}pooler.dense", "representation"),
    *linear("{head}", "head"),
    *linear("distillation_classifier", "head_dist"),
)
# The names of a block's layers, by model.
VIT_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
DINOV2_LAYERS = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
SWIGLU_LAYERS = {**DINOV2_LAYERS, "fc1": "mlp.weights_in", "fc2": "mlp.weights_out"}

CLASSES = {  # by model type
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
}
# What the published models are used with, by what names of ours begin with.
USUAL: dict[str, Fields] = {
    "vit": {"fit": "squash", "interpolation": "bilinear", **HALF},
    "deit": {"crop_fraction": 0.875, "interpolation": "bicubic", **IMAGENET},
    "deit3": {"fit": "squash", "interpolation": "bilinear", **HALF},
    "dinov2": {"crop_fraction": 0.875, "interpolation": "bicubic", **IMAGENET},
}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the names that a file uses, from the shapes of its arrays."""
    prefix = hf_documents.find_prefix(shapes, tuple(CLASSES))
    block = f"{prefix}encoder.layer.0."
    layers = VIT_LAYERS
    if f"{block}mlp.weights_in.weight" in shapes:
        layers = SWIGLU_LAYERS
    elif f"{block}mlp.fc1.weight" in shapes:
        layers = DINOV2_LAYERS
    head = "cls_classifier" if "cls_classifier.weight" in shapes else "classifier"
    return {**layers, "prefix": prefix, "head": head}


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the names with which to write a model, from its fields."""
    model_type = find_model_type(fields)
    layers = VIT_LAYERS
    if model_type.startswith("dinov2"):
        layers = SWIGLU_LAYERS if fields["mlp.name"] == "swiglu" else DINOV2_LAYERS
    return {
        **layers,
        "prefix": f"{model_type}." if fields["num_classes"] else "",
        "head": "cls_classifier" if model_type == "deit" else "classifier",
    }


def find_model_type(fields: Fields) -> str:
    """Return the `model_type` of transformers for a model with these fields."""
    if fields["block.layer_scale"]:
        return "dinov2_with_registers" if fields["num_registers"] else "dinov2"
    return "deit" if fields["distilled"] else "vit"


def class_name(fields: Fields) -> str:
    """Return the class of transformers for a model with these fields."""
    model_type = find_model_type(fields)
    name = original.class_name(CLASSES[model_type], fields)
    return f"{name}WithTeacher" if model_type == "deit" and fields["num_classes"] else name


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Return what a folder states: its arrays, `config.json` and `preprocessor_config.json`.

    Raises:
      DataError: A document is incomplete, or describes a model that we do not have.
    """
    document, model_type = hf_documents.open_config(documents, tuple(CLASSES))
    data, notes = preprocessing.read(documents, USUAL, series)
    is_swiglu = model_type.startswith("dinov2") and document.get("use_swiglu_ffn") is True
    names = placeholders(shapes)
    num_classes = num_outputs(shapes, f"{names['head']}.bias")
    return ImportSpec(
        fields={
            **hf_documents.read_numerics(document, has_activation=not is_swiglu),
            "num_classes": num_classes,
            **_fields(shapes, names["prefix"], model_type, num_classes),
        },
        sizes={
            "num_heads": read_key(document, "num_attention_heads", int, CONFIG),
            "mlp.name": "swiglu" if is_swiglu else "mlp",
            "stem.name": "patch",
        },
        positions=shapes.get(f"{names['prefix']}embeddings.position_embeddings", (0, 0))[1],
        num_tokens=2 if model_type == "deit" else 1,
        data={**data, "image_size": hf_documents.read_image_size(document)},
        class_names=hf_documents.read_class_names(document, num_classes),
        notes=notes,
    )


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name.

    Raises:
      DataError: The feed-forward network has a size that transformers cannot compute.
    """
    model_type = find_model_type(fields)
    document = hf_documents.write(model_type, class_name(fields), fields, data, class_names)
    document |= {
        "hidden_size": fields["width"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
    }
    is_dino = model_type.startswith("dinov2")
    document |= _dinov2_document(fields) if is_dino else _vit_document(fields)
    return {CONFIG: document, preprocessing.FILE: preprocessing.write(data)}


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what the model of transformers computes with the weights at a path."""
    return original.outputs(class_name(fields), path, fields, pixels)


def _fields(shapes: Shapes, prefix: str, model_type: str, num_classes: int) -> dict[str, Any]:
    """Return the fields that no document states."""
    has_registers = model_type == "dinov2_with_registers"
    return {
        "block.name": "pre",
        "attention.name": "full",
        "representation_size": num_outputs(shapes, f"{prefix}pooler.dense.bias"),
        "pool.name": "cls_gap" if model_type.startswith("dinov2") and num_classes else "cls",
        "keep_class_token": False,
        "pool.fc_norm": False,
        "posemb.name": "learned",
        "posemb.prefix": True,
        "posemb.interpolation": "bicubic" if has_registers else "bicubic_torch",
        "posemb.antialias": has_registers,
    }


def _dinov2_document(fields: Fields) -> dict[str, Any]:
    is_swiglu = fields["mlp.name"] == "swiglu"
    document = {
        "mlp_ratio": _mlp_ratio(fields["mlp_dim"], fields["width"], is_swiglu),
        "use_swiglu_ffn": is_swiglu,
        "use_mask_token": False,
    }
    if fields["num_registers"]:
        document["num_register_tokens"] = fields["num_registers"]
    return document


def _vit_document(fields: Fields) -> dict[str, Any]:
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


VIT = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
    original=Original("transformers", outputs),
)
