"""google-research/vision_transformer: ViT, AugReg and the hybrids (`.npz`).

The published files have the names of the code before linen; the code of today makes others.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.weights.facts import HALF, Facts, Json, dense, num_classes, scale
from vit_jax.weights.rules import Rule, Shape

FILE = "weights.npz"
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
    """Yields the rules of the encoder's blocks."""
    attn, ours = source + "/{attn}", "blocks_{i}"
    yield from scale(f"{source}/LayerNorm_0", f"{ours}/norm1")
    yield from attention(attn, f"{ours}/attn")
    yield from scale(source + "/{norm2}", f"{ours}/norm2")
    yield from dense(source + "/{mlp}/Dense_0", f"{ours}/mlp/fc1")
    yield from dense(source + "/{mlp}/Dense_1", f"{ours}/mlp/fc2")


def attention(source: str, target: str) -> Iterator[Rule]:
    """Yields the rules of self-attention."""
    for name, pattern in (("kernel", "s d h c -> d s h c"), ("bias", "s h c -> s h c")):
        parts = tuple(f"{source}/{part}/{name}" for part in ("query", "key", "value"))
        yield Rule(parts, f"{target}/qkv/{name}", pattern)
    yield from dense(f"{source}/out", f"{target}/out")


def resnet() -> Iterator[Rule]:
    """Yields the rules of a hybrid's ResNet."""
    pattern = "{ones}c -> c"
    yield Rule("conv_root/kernel", "stem/resnet/conv_root/kernel")
    yield from scale("gn_root", "stem/resnet/norm_root", pattern)
    theirs, ours = "block{i1}/unit{j1}", "stem/resnet/stages_{i}_{j}"
    for part in ("1", "2", "3", "_proj"):
        yield Rule(f"{theirs}/conv{part}/kernel", f"{ours}/conv{part}/kernel")
        yield from scale(f"{theirs}/gn{part}", f"{ours}/norm{part}", pattern)


RULES = (
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


def words(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Returns the names that this file uses."""
    return LINEN if any("/MlpBlock_0/" in name for name in shapes) else PUBLISHED


def words_for(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns the names to write a model with: those of the published files."""
    return PUBLISHED


# What the code of these weights does with them.
FIELDS = {
    "norm_order": "pre",
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
    "keep_class_token": False,
    "fc_norm": False,
    "posemb_interpolation": "spline",
    "posemb_antialias": False,
    "weight_standardization": "std",
    "group_norm_eps": 1e-6,
}
# Images are squashed to the model's size, their pixels mapped to -1..1.
DATA = {"fit": "squash", "interpolation": "bilinear", **HALF}


def describe(shapes: Mapping[str, Shape], documents: Mapping[str, Json], family: str) -> Facts:
    """Returns what a file states."""
    has_token = "cls" in shapes
    return Facts(
        fields={
            **FIELDS,
            "num_classes": num_classes(shapes, "head/bias"),
            "representation_size": num_classes(shapes, "pre_logits/bias"),
            "pool": "cls" if has_token else "gap",
            "posemb": "learned",
            "posemb_prefix": True,
        },
        sizes=sizes(shapes, "Transformer/encoderblock_0/" + words(shapes)["attn"]),
        positions=shapes.get("Transformer/posembed_input/pos_embedding", (0, 0))[1],
        num_tokens=int(has_token),
        data=DATA,
    )


def documents_for(
    fields: Mapping[str, Any], data: Mapping[str, Any], class_names: tuple[str, ...]
) -> dict[str, Json]:
    """Returns the documents to write beside the weights of a model: there are none."""
    return {}


def sizes(shapes: Mapping[str, Shape], attention: str) -> dict[str, Any]:
    """Returns what other kinds of files do not show: the number of attention heads."""
    shape = shapes.get(f"{attention}/query/bias", ())
    return {"mlp": "mlp"} | ({"num_heads": shape[-2]} if len(shape) > 1 else {})
