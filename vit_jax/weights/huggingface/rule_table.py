"""The names in the files of transformers, and which of its models is ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.weights import swin
from vit_jax.weights.rule_builders import linear, norm
from vit_jax.weights.rules import Rule, Shape

CONV = "o i h w -> h w i o"


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
    *swin.huggingface_rules(),
    *norm("{prefix}layernorm", "norm"),
    *linear("{prefix}pooler.dense", "representation"),
    *linear("{head}", "head"),
    *linear("distillation_classifier", "head_dist"),
)
# The names of a block's layers, by model.
VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
DINOV2 = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
SWIGLU = {**DINOV2, "fc1": "mlp.weights_in", "fc2": "mlp.weights_out"}

MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", "swin", "swinv2")
HEADS = {"vit": "classifier", "deit": "cls_classifier"}
CLASSES = {
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "swin": "Swin",
    "swinv2": "Swinv2",
}


def placeholders(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return the names that a file uses, from the shapes of its arrays."""
    stem_bias = "embeddings.patch_embeddings.projection.bias"
    prefixes = [f"{name}." for name in MODEL_TYPES if f"{name}.{stem_bias}" in shapes]
    prefix = prefixes[0] if prefixes else ""
    block = f"{prefix}encoder.layer.0."
    layers = VIT
    if f"{block}mlp.weights_in.weight" in shapes:
        layers = SWIGLU
    elif f"{block}mlp.fc1.weight" in shapes:
        layers = DINOV2
    head = "cls_classifier" if "cls_classifier.weight" in shapes else "classifier"
    return {**layers, "prefix": prefix, "head": head}


def placeholders_for(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the names with which to write a model, from its fields."""
    model_type = find_model_type(fields)
    layers = VIT
    if model_type.startswith("dinov2"):
        layers = SWIGLU if fields["mlp"] == "swiglu" else DINOV2
    return {
        **layers,
        "prefix": f"{model_type}." if fields["num_classes"] else "",
        "head": HEADS.get(model_type, "classifier"),
    }


def find_model_type(fields: Mapping[str, Any]) -> str:
    """Return the `model_type` of transformers for a model with these fields."""
    if "depths" in fields:
        return "swinv2" if fields["cosine"] else "swin"
    if fields["layer_scale"]:
        return "dinov2_with_registers" if fields["num_registers"] else "dinov2"
    return "deit" if fields["distilled"] else "vit"


def class_name(fields: Mapping[str, Any]) -> str:
    """Return the class of transformers for a model with these fields."""
    model_type = find_model_type(fields)
    name = CLASSES[model_type]
    if not fields["num_classes"]:
        return f"{name}Model"
    if model_type == "deit":
        return f"{name}ForImageClassificationWithTeacher"
    return f"{name}ForImageClassification"
