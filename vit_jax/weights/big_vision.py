"""Weights of google-research/big_vision: ViTs with any pool, and SigLIP's image towers (`.npz`)."""

from vit_jax.weights import google
from vit_jax.weights.import_spec import MINUS_ONE_TO_ONE, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Shapes
from vit_jax.weights.rule_builders import dense, scale
from vit_jax.weights.rules import Rule

RULES: tuple[Rule, ...] = (
    *dense("{prefix}embedding", "stem/proj"),
    Rule("{prefix}cls", "cls_token", "1 n d -> n d"),
    Rule("{prefix}pos_embedding", ("posemb/prefix", "posemb/grid"), "1 n d -> n d"),
    *google.blocks("{prefix}Transformer/encoderblock{number}"),
    *scale("{prefix}Transformer/encoder_norm", "norm"),
    Rule("{prefix}MAPHead_0/probe", "pool/probe"),
    Rule("{prefix}MAPHead_0/{attn}/query/kernel", "pool/attn/q/kernel", "d h c -> d 1 h c"),
    Rule("{prefix}MAPHead_0/{attn}/query/bias", "pool/attn/q/bias", "h c -> 1 h c"),
    Rule(
        ("{prefix}MAPHead_0/{attn}/key/kernel", "{prefix}MAPHead_0/{attn}/value/kernel"),
        "pool/attn/kv/kernel",
        "s d h c -> d s h c",
    ),
    Rule(
        ("{prefix}MAPHead_0/{attn}/key/bias", "{prefix}MAPHead_0/{attn}/value/bias"),
        "pool/attn/kv/bias",
        "s h c -> s h c",
    ),
    *dense("{prefix}MAPHead_0/{attn}/out", "pool/attn/out"),
    *scale("{prefix}MAPHead_0/LayerNorm_0", "pool/norm"),
    *dense("{prefix}MAPHead_0/{mlp}/Dense_0", "pool/mlp/fc1"),
    *dense("{prefix}MAPHead_0/{mlp}/Dense_1", "pool/mlp/fc2"),
    *dense("{prefix}pre_logits", "representation"),
    *dense("{prefix}head", "head"),
)
PUBLISHED = {**google.LINEN, "prefix": "params/", "number": "_{i}"}

# Images are resized to 256 and centre-cropped to 224; pixels are mapped to [-1, 1].
DATA = {"fit": "crop", "crop_fraction": 0.875, "interpolation": "bilinear", **MINUS_ONE_TO_ONE}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the prefix of all names in a file, and how its blocks are numbered (if at all)."""
    prefixes = ("params/img/", "params/", "")
    prefix = next(p for p in prefixes if f"{p}embedding/kernel" in shapes or not p)
    scanned = any(name.startswith(f"{prefix}Transformer/encoderblock/") for name in shapes)
    return {**PUBLISHED, "prefix": prefix, "number": "" if scanned else "_{i}"}


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the placeholders of an export: those of the published files."""
    return PUBLISHED


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Describe the model of a file, from the shapes of its arrays."""
    names = placeholders(shapes)
    bare = {name.removeprefix(names["prefix"]): shape for name, shape in shapes.items()}
    has_token = "cls" in bare
    pool = "gap"
    if has_token:
        pool = "cls"
    elif "MAPHead_0/probe" in bare:
        pool = "map"
    attention = f"Transformer/encoderblock{names['number'].format(i=0)}/{names['attn']}"
    return ImportSpec(
        fields={
            **google.FIELDS,
            "num_classes": num_outputs(bare, "head/bias"),
            "representation_size": num_outputs(bare, "pre_logits/bias"),
            "pool.name": pool,
            "posemb.name": "learned" if "pos_embedding" in bare else "sincos2d",
            "posemb.prefix": False,
        },
        sizes={**google.sizes(bare, attention), "stem.name": "patch"},
        positions=bare.get("pos_embedding", (0, 0))[1],
        num_tokens=int(has_token),
        data=DATA,
    )


VIT = Library(
    rules=RULES,
    file="weights.npz",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=google.documents_for,
)
