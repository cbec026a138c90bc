"""Weights of google-research/vision_transformer: ViT, AugReg and the hybrids (`.npz`).

The published files use the names of the code before its port to linen. The code of today writes
other names. Both are read.
"""

from collections.abc import Iterator
from typing import Any

from vit_jax.weights.documents import Json
from vit_jax.weights.import_spec import MINUS_ONE_TO_ONE, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Shapes
from vit_jax.weights.rule_builders import dense, scale
from vit_jax.weights.rules import Rule

# The names of the published files, and of those that today's linen code writes.
PUBLISHED = {
    "attn": "MultiHeadDotProductAttention_1",
    "norm2": "LayerNorm_2",
    "mlp": "MlpBlock_3",
    "ones": "1 1 1 ",  # GroupNorm's dimensions
}
LINEN = {
    "attn": "MultiHeadDotProductAttention_0",
    "norm2": "LayerNorm_1",
    "mlp": "MlpBlock_0",
    "ones": "",
}


def blocks(source: str) -> Iterator[Rule]:
    """Yield the rules of the encoder's blocks."""
    ours = "blocks_{i}"
    yield from scale(f"{source}/LayerNorm_0", f"{ours}/norm1")
    yield from attention(source + "/{attn}", f"{ours}/attn")
    yield from scale(source + "/{norm2}", f"{ours}/norm2")
    yield from dense(source + "/{mlp}/Dense_0", f"{ours}/mlp/fc1")
    yield from dense(source + "/{mlp}/Dense_1", f"{ours}/mlp/fc2")


def attention(source: str, target: str) -> Iterator[Rule]:
    """Yield the rules of self-attention."""
    for name, pattern in (("kernel", "s d h c -> d s h c"), ("bias", "s h c -> s h c")):
        sources = tuple(f"{source}/{layer}/{name}" for layer in ("query", "key", "value"))
        yield Rule(sources, f"{target}/qkv/{name}", pattern)
    yield from dense(f"{source}/out", f"{target}/out")


def resnet() -> Iterator[Rule]:
    """Yield the rules of a hybrid's ResNet."""
    pattern = "{ones}c -> c"
    yield Rule("conv_root/kernel", "stem/resnet/conv_root/kernel")
    yield from scale("gn_root", "stem/resnet/norm_root", pattern)
    theirs = "block{i1}/unit{j1}"
    ours = "stem/resnet/stages_{i}_{j}"
    for suffix in ("1", "2", "3", "_proj"):
        yield Rule(f"{theirs}/conv{suffix}/kernel", f"{ours}/conv{suffix}/kernel")
        yield from scale(f"{theirs}/gn{suffix}", f"{ours}/norm{suffix}", pattern)


RULES: tuple[Rule, ...] = (
    *resnet(),
    *dense("embedding", "stem/proj"),
    Rule("cls", "cls_token", "1 n d -> n d"),
    Rule(
        "Transformer/posembed_input/pos_embedding", ("posemb/prefix", "posemb/grid"), "1 n d -> n d"
    ),
    *blocks("Transformer/encoderblock_{i}"),
    *scale("Transformer/encoder_norm", "norm"),
    *dense("pre_logits", "representation"),
    *dense("head", "head"),
)


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the placeholders of a file, from the names of its arrays."""
    return LINEN if any("/MlpBlock_0/" in name for name in shapes) else PUBLISHED


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the placeholders of an export: those of the published files."""
    return PUBLISHED


# Fields that Google's code hard-codes for all of its weights.
FIELDS = {
    "block.name": "pre",
    "mlp.activation": "gelu_tanh",
    "pool.activation": "gelu_tanh",
    "attention.name": "auto",
    "attention.qkv_bias": True,
    "representation_activation": "tanh",
    "norm_eps": 1e-6,
    "keep_class_token": False,
    "pool.fc_norm": False,
    "posemb.interpolation": "spline",
    "posemb.antialias": False,
    "stem.weight_standardization": "std",
    "stem.norm_eps": 1e-6,
}
# Images are resized to the model's size, whatever their aspect ratio; pixels map to [-1, 1].
DATA = {"fit": "squash", "interpolation": "bilinear", **MINUS_ONE_TO_ONE}


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Describe the model of a file, from the shapes of its arrays."""
    has_token = "cls" in shapes
    return ImportSpec(
        fields={
            **FIELDS,
            "num_classes": num_outputs(shapes, "head/bias"),
            "representation_size": num_outputs(shapes, "pre_logits/bias"),
            "pool.name": "cls" if has_token else "gap",
            "posemb.name": "learned",
            "posemb.prefix": True,
        },
        sizes=sizes(shapes, "Transformer/encoderblock_0/" + placeholders(shapes)["attn"]),
        positions=shapes.get("Transformer/posembed_input/pos_embedding", (0, 0))[1],
        num_tokens=int(has_token),
        data=DATA,
    )


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents of an export: this library has none."""
    return {}


def sizes(shapes: Shapes, attention: str) -> dict[str, Any]:
    """Return the fields that follow from the shapes, such as the number of attention heads.

    Args:
      shapes: Shapes of the arrays, by name.
      attention: The name of the attention layer in the first block.
    """
    bias = shapes.get(f"{attention}/query/bias", ())
    if len(bias) > 1:
        return {"mlp.name": "mlp", "num_heads": bias[-2]}
    return {"mlp.name": "mlp"}


VIT = Library(
    rules=RULES,
    file="weights.npz",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
)
