"""ViT, DeiT and DINOv2 of transformers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json
from vit_jax.weights.huggingface import documents as hf_documents
from vit_jax.weights.huggingface import original, preprocessing
from vit_jax.weights.huggingface.classes import check_count, find_head, read_loss, read_names
from vit_jax.weights.huggingface.keys import CONFIG
from vit_jax.weights.huggingface.naming import name_vit
from vit_jax.weights.huggingface.vit_document import (
    CLASSES,
    NUM_TOKENS,
    PROCESSORS,
    TWO_HEAD_CLASS,
    architectures,
    check_positions,
    compute_mlp_dim,
    read_fields,
    read_size,
    read_sizes,
)
from vit_jax.weights.import_spec import IMAGENET, MINUS_ONE_TO_ONE, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule


def embeddings() -> Iterator[Rule]:
    """Yield the rules of the patch, token and position embeddings."""
    theirs = "{prefix}embeddings."
    yield from linear(theirs + "patch_embeddings.projection", "stem/proj", CONV)
    yield Rule(theirs + "cls_token", "cls_token", "1 n d -> n d")
    yield Rule(theirs + "distillation_token", "dist_token", "1 n d -> n d")
    yield Rule(theirs + "register_tokens", "registers", "1 n d -> n d")
    yield Rule(theirs + "position_embeddings", ("posemb/prefix", "posemb/grid"), "1 n d -> n d")
    yield Rule(theirs + "mask_token")  # pre-training


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
    """Yield the rules of the encoder's blocks, for the names of ViT and of DINOv2."""
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
    *linear("{prefix}{pooler}", "representation"),
    *linear("{head}", "head"),
    *linear("distillation_classifier", "head_dist"),
    *(Rule(f"decoder.0.{name}") for name in ("weight", "bias")),  # pre-training
    *(Rule(f"{{prefix}}{{unused}}.{name}") for name in ("weight", "bias")),
)
# The names of the layers of a block.
VIT_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
DINOV2_LAYERS = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
SWIGLU_LAYERS = {**DINOV2_LAYERS, "fc1": "mlp.weights_in", "fc2": "mlp.weights_out"}

POOLER = ("pooler.dense", "none")  # the placeholders `pooler` and `unused` if a pooler is read
# The preprocessing of the published models, for weights without a document, by series.
USUAL_PREPROCESSING: dict[str, Fields] = {
    "vit": {"fit": "squash", "interpolation": "bilinear", **MINUS_ONE_TO_ONE},
    "deit": {"crop_fraction": 0.875, "interpolation": "bicubic", **IMAGENET},
    "deit3": {"fit": "squash", "interpolation": "bilinear", **MINUS_ONE_TO_ONE},
    "dinov2": {"crop_fraction": 0.875, "interpolation": "bicubic", **IMAGENET},
}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the placeholders of a file, from the names of its arrays."""
    prefix = hf_documents.find_prefix(shapes, tuple(CLASSES))
    block = f"{prefix}encoder.layer.0."
    layers = VIT_LAYERS
    if f"{block}mlp.weights_in.weight" in shapes:
        layers = SWIGLU_LAYERS
    elif f"{block}mlp.fc1.weight" in shapes:
        layers = DINOV2_LAYERS
    head = "cls_classifier" if "cls_classifier.weight" in shapes else "classifier"
    # The logits do not depend on the pooler.
    pooler, unused = ("none", "pooler.dense") if f"{head}.weight" in shapes else POOLER
    return {**layers, "prefix": prefix, "head": head, "pooler": pooler, "unused": unused}


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the placeholders of an export, from the fields of the model."""
    model_type = find_model_type(fields)
    layers = VIT_LAYERS
    if model_type.startswith("dinov2"):
        layers = SWIGLU_LAYERS if fields["mlp.name"] == "swiglu" else DINOV2_LAYERS
    pooler, unused = POOLER
    return {
        **layers,
        "pooler": pooler,
        "unused": unused,
        "prefix": f"{model_type}." if fields["num_classes"] else "",
        "head": "cls_classifier" if _has_two_heads(fields) else "classifier",
    }


def find_model_type(fields: Fields) -> str:
    """Return the `model_type` of transformers for a model with these fields."""
    if fields["block.layer_scale"]:
        return "dinov2_with_registers" if fields["num_registers"] else "dinov2"
    return "deit" if fields["distilled"] else "vit"


def class_name(fields: Fields) -> str:
    """Return the name of transformers' class for a model with these fields."""
    if _has_two_heads(fields):
        return TWO_HEAD_CLASS
    return original.class_name(CLASSES[find_model_type(fields)], fields)


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Describe a ViT, DeiT or DINOv2 from its arrays and documents.

    Raises:
      DataError: A document is incomplete, or describes a model that we do not have.
    """
    document, model_type, notes = hf_documents.open_config(documents, tuple(CLASSES))
    names = placeholders(shapes)
    head = find_head(document, architectures(model_type), shapes)
    num_classes = num_outputs(shapes, f"{head}.bias") if head else 0
    check_count(document, num_classes)
    class_names, names_notes = read_names(document, num_classes)
    objective, loss_notes = read_loss(document, num_classes)
    channels = hf_documents.read_channels(document, shapes, names["prefix"])
    processor = PROCESSORS.get(model_type, "Bit")
    images = preprocessing.read(documents, USUAL_PREPROCESSING, series, processor, channels)
    size, trained_size, size_notes = read_size(document, model_type, images.size)
    fields, pool_notes = read_fields(document, shapes, names["prefix"], num_classes)
    positions = shapes.get(f"{names['prefix']}embeddings.position_embeddings", (0, 0))[1]
    check_positions(document, positions, trained_size, NUM_TOKENS.get(model_type, 1))
    return ImportSpec(
        fields={**fields, "num_classes": num_classes},
        sizes=read_sizes(document, model_type),
        positions=positions,
        num_tokens=NUM_TOKENS.get(model_type, 1),
        data={**images.data, "image_size": size, "channels": channels},
        trained_size=trained_size,
        objective=objective,
        class_names=class_names,
        notes=(*notes, *images.notes, *size_notes, *pool_notes, *names_notes, *loss_notes),
    )


def infer(shapes: Shapes, documents: Documents) -> dict[str, Any]:
    """Infer our model from the `config.json` of a folder.

    Returns:
      The name of our model and its fields; empty for another family.

    Raises:
      DataError: The folder has no `config.json`, or one of a model that we do not have.
    """
    if not hf_documents.has_model_type(documents, CLASSES):
        return {}
    document, model_type, _ = hf_documents.open_config(documents, tuple(CLASSES))
    sizes = read_sizes(document, model_type)
    return {"name": name_vit(model_type, sizes["width"], sizes["stem.patch"][0]), **sizes}


def rewrite(fields: Fields, params: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Extend the head of a DINOv2 to read the class token and the mean of the patches.

    transformers' head reads both. The new half of the kernel is zero.

    Args:
      fields: The fields of our model, by path.
      params: The parameters of our model, which are changed in place.

    Returns:
      The fields of the equivalent model, and notes.
    """
    fields = dict(fields)
    reads_token = fields["pool.name"] == "cls"
    reads_mean = fields["pool.name"] == "gap" and fields["keep_class_token"]
    is_dino = bool(fields["block.layer_scale"] and fields["num_classes"])
    if not is_dino or fields["pool.fc_norm"] or not (reads_token or reads_mean):
        return fields, ()
    kernel = params["head/kernel"]
    parts = (kernel, np.zeros_like(kernel)) if reads_token else (np.zeros_like(kernel), kernel)
    params["head/kernel"] = np.concatenate(parts)
    fields |= {"pool.name": "cls_gap", "keep_class_token": False}
    return fields, ("the head was extended to transformers' inputs, with weights of zero",)


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents of an export, by file name.

    Raises:
      DataError: No `mlp_ratio` gives the size of the feed-forward network, or the position
        embedding of a DINOv2 is not square.
    """
    model_type = find_model_type(fields)
    document = hf_documents.write(model_type, class_name(fields), fields, data, class_names)
    document |= {
        "hidden_size": fields["width"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
    }
    if model_type.startswith("dinov2"):
        grid = [n // p for n, p in zip(data["image_size"], fields["stem.patch"], strict=True)]
        if grid[0] != grid[1]:
            problem = f"transformers' DINOv2 needs a square grid, got {grid[0]}x{grid[1]}"
            raise DataError(f"config.data.image_size: {problem}")
        document |= _dinov2_document(fields)
    else:
        document |= _vit_document(fields)
    return {CONFIG: document, preprocessing.FILE: preprocessing.write(data)}


def _has_two_heads(fields: Fields) -> bool:
    return bool(fields["distilled"] and fields["distilled_head"] and fields["num_classes"])


def _dinov2_document(fields: Fields) -> dict[str, Any]:
    is_swiglu = fields["mlp.name"] == "swiglu"
    document = {
        "mlp_ratio": _mlp_ratio(fields["mlp_dim"], fields["width"], is_swiglu),
        "use_swiglu_ffn": is_swiglu,
        "use_mask_token": False,
        "layerscale_value": fields["block.layer_scale"],
    }
    if fields["num_registers"]:
        document["num_register_tokens"] = fields["num_registers"]
    return document


def _vit_document(fields: Fields) -> dict[str, Any]:
    document = {"intermediate_size": fields["mlp_dim"]}
    if size := fields["representation_size"]:
        activation = hf_documents.write_activation(fields["representation_activation"])
        document |= {"pooler_output_size": size, "pooler_act": activation}
    return document


def _mlp_ratio(mlp_dim: int, width: int, is_swiglu: bool) -> int:
    """Return the ratio from which transformers computes the size of the feed-forward network.

    Raises:
      DataError: There is no such ratio.
    """
    for ratio in (4, round(mlp_dim / width), round(mlp_dim * 1.5 / width)):
        if compute_mlp_dim(width, ratio, is_swiglu) == mlp_dim:
            return ratio
    raise DataError(
        f"config.model.mlp_dim: no mlp_ratio of transformers gives {mlp_dim} for width {width}"
    )


VIT = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
    rewrite=rewrite,
    infer=infer,
    original=Original("transformers", original.outputs, original.pixels),
)
