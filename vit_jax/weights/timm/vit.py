"""timm's ViT, DeiT, DeiT III, DINOv2 and hybrids."""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.import_spec import IMAGENET, MINUS_ONE_TO_ONE, ImportSpec
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule
from vit_jax.weights.timm import arguments, unsupported, vit_arrays, vit_model
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm.architectures import VIT_SIZES
from vit_jax.weights.timm.inferring import infer_vit


def blocks() -> Iterator[Rule]:
    """Yield the rules of the encoder's blocks."""
    theirs = "blocks.{i}"
    ours = "blocks_{i}"
    yield from norm(f"{theirs}.norm1", f"{ours}/norm1")
    yield Rule(f"{theirs}.attn.qkv.weight", f"{ours}/attn/qkv/kernel", "(s h c) d -> d s h c")
    yield Rule(f"{theirs}.attn.qkv.bias", f"{ours}/attn/qkv/bias", "(s h c) -> s h c")
    yield from norm(f"{theirs}.attn.q_norm", f"{ours}/attn/q_norm")
    yield from norm(f"{theirs}.attn.k_norm", f"{ours}/attn/k_norm")
    yield from linear(f"{theirs}.attn.proj", f"{ours}/attn/out", "d (h c) -> h c d")
    yield Rule(f"{theirs}.ls1.gamma", f"{ours}/scale1/scale")
    yield from norm(f"{theirs}.norm2", f"{ours}/norm2")
    yield from linear(theirs + ".mlp.{fc1}", f"{ours}/mlp/fc1")
    yield from linear(theirs + ".mlp.{fc2}", f"{ours}/mlp/fc2")
    yield Rule(f"{theirs}.ls2.gamma", f"{ours}/scale2/scale")


def pool() -> Iterator[Rule]:
    """Yield the rules of the attention pool."""
    yield Rule("attn_pool.latent", "pool/probe")
    yield Rule("attn_pool.q.weight", "pool/attn/q/kernel", "(h c) d -> d 1 h c")
    yield Rule("attn_pool.q.bias", "pool/attn/q/bias", "(h c) -> 1 h c")
    yield Rule("attn_pool.kv.weight", "pool/attn/kv/kernel", "(s h c) d -> d s h c")
    yield Rule("attn_pool.kv.bias", "pool/attn/kv/bias", "(s h c) -> s h c")
    yield from linear("attn_pool.proj", "pool/attn/out", "d (h c) -> h c d")
    yield from norm("attn_pool.norm", "pool/norm")
    yield from linear("attn_pool.mlp.fc1", "pool/mlp/fc1")
    yield from linear("attn_pool.mlp.fc2", "pool/mlp/fc2")


def resnet() -> Iterator[Rule]:
    """Yield the rules of a hybrid's ResNet."""
    backbone = "patch_embed.backbone."
    yield Rule(backbone + "{stem}conv.weight", "stem/resnet/conv_root/kernel", CONV)
    yield from norm(backbone + "{stem}norm", "stem/resnet/norm_root")
    theirs = backbone + "stages.{i}.blocks.{j}."
    ours = "stem/resnet/stages_{i}_{j}/"
    for number in "123":
        yield Rule(f"{theirs}conv{number}.weight", f"{ours}conv{number}/kernel", CONV)
        yield from norm(f"{theirs}norm{number}", f"{ours}norm{number}")
    yield Rule(f"{theirs}downsample.conv.weight", f"{ours}conv_proj/kernel", CONV)
    yield from norm(f"{theirs}downsample.norm", f"{ours}norm_proj")


RULES: tuple[Rule, ...] = (
    *resnet(),
    *linear("patch_embed.proj", "stem/proj", CONV),
    Rule("cls_token", "cls_token", "1 n d -> n d"),
    Rule("dist_token", "dist_token", "1 n d -> n d"),
    Rule("{registers}", "registers", "1 n d -> n d"),
    Rule("pos_embed", ("posemb/prefix", "posemb/grid"), "1 n d -> n d"),
    *blocks(),
    *norm("norm", "norm"),
    *pool(),
    *norm("fc_norm", "fc_norm"),
    *linear("head", "head"),
    *linear("head_dist", "head_dist"),
    Rule("mask_token"),  # pre-training of DINOv2 and MAE
    Rule("decoder_*"),  # MAE
)
PUBLISHED = {"stem": "stem.", "registers": "reg_token", "fc1": "fc1", "fc2": "fc2"}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the placeholders of a file, timm's or Meta's, from the names of its arrays."""
    names = dict(PUBLISHED)
    if "patch_embed.backbone.conv.weight" in shapes:
        names["stem"] = ""
    if "register_tokens" in shapes:
        names["registers"] = "register_tokens"
    if "blocks.0.mlp.w12.weight" in shapes:
        names |= {"fc1": "w12", "fc2": "w3"}
    if vit_arrays.lacks_teacher_head(shapes):
        names["registers"] = "dist_token"
    return names


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the placeholders of an export, from the fields of the model."""
    return PUBLISHED | ({"stem": ""} if fields.get("stem.layers") == () else {})


# Fields that timm's code hard-codes for all of its weights.
FIELDS = {
    "block.name": "pre",
    "attention.name": "auto",
    "norm_eps": 1e-6,
    "posemb.name": "learned",
    "posemb.interpolation": "bicubic",
    "posemb.antialias": True,
    "stem.weight_standardization": "variance",
    "stem.norm_eps": 1e-5,
}
# timm's usual preprocessing, for weights without a document, by series.
USUAL_PREPROCESSING: dict[str, Fields] = {
    "vit": {"crop_fraction": 0.9, "interpolation": "bicubic", **MINUS_ONE_TO_ONE},
    "deit": {"crop_fraction": 0.9, "interpolation": "bicubic", **IMAGENET},
    "deit3": {"crop_fraction": 1.0, "interpolation": "bicubic", **IMAGENET},
    "dinov2": {"crop_fraction": 1.0, "interpolation": "bicubic", **IMAGENET},
}
POOLS = {"token": "cls", "avg": "gap", "map": "map"}
# The arguments of timm's VisionTransformer that are read or compared here.
ARGUMENTS = {"act_layer", "fc_norm", "global_pool", "img_size", "mlp_ratio", "no_embed_class"}
ARGUMENTS |= {"norm_layer", "num_heads", "init_values"}
# The values of names that do not imply others.
DEFAULTS: Mapping[str, Any] = {
    "class_token": True,
    "distilled": False,
    "global_pool": "token",
    "mlp_layer": "mlp",
    "no_embed_class": False,
    "qk_norm": False,
    "qkv_bias": True,
    "reg_tokens": 0,
}


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Describe a ViT from its arrays and the `config.json` beside them.

    Raises:
      DataError: The document is incomplete or contradicts the arrays, or we do not have the model.
    """
    unsupported.refuse(shapes)
    inferred = vit_arrays.infer_arguments(shapes)
    document = timm_documents.read(documents, "vit")
    stated = document.arguments(inferred["embed_dim"]) if document else {}
    if document and document.named:
        stated = {**DEFAULTS, **stated}
    if document and document.num_features:
        arguments.compare(
            {"num_features": document.num_features}, {"num_features": inferred["embed_dim"]}
        )
    if document is None:
        unsupported.refuse_ambiguous(shapes)
    no_teacher = vit_arrays.lacks_teacher_head(shapes)
    if no_teacher:
        stated = {k: v for k, v in stated.items() if k not in ("distilled", "reg_tokens")}
    _check(stated, inferred, shapes)
    usual, notes = timm_documents.read_preprocessing(
        document, USUAL_PREPROCESSING, series, inferred["in_chans"]
    )
    class_names, more = timm_documents.read_class_names(document, inferred["num_classes"])
    if not document and inferred["global_pool"] == "map":
        more += ("the activation is taken to be exact GELU; some SigLIP 2 models have another",)
    if no_teacher:
        more += ("no head_dist: the distillation token is read as a register with a position",)
    sizes = {"mlp.name": inferred["mlp_layer"]}
    if "num_heads" in stated:
        sizes["num_heads"] = stated["num_heads"]
    elif inferred["embed_dim"] not in {0, *dict(VIT_SIZES.values())}:
        more += ("the arrays do not show the number of heads; check --model.num_heads",)
    return ImportSpec(
        fields={**FIELDS, **_fields(stated, inferred), **(NO_TEACHER if no_teacher else {})},
        sizes=sizes if inferred["embed_dim"] else {},
        positions=shapes.get("pos_embed", (0, 0))[1],
        num_tokens=inferred["class_token"] + inferred["distilled"],
        token_rows=vit_arrays.token_rows(shapes, stated.get("no_embed_class")),
        data=usual,
        class_names=class_names,
        notes=(*notes, *more),
    )


NO_TEACHER = {"distilled": False, "num_registers": 1}


def _check(stated: Mapping[str, Any], inferred: Mapping[str, Any], shapes: Shapes) -> None:
    """Check that the document describes a model that we have, and agrees with the arrays.

    Raises:
      DataError: It does not.
    """
    arguments.check(stated, ARGUMENTS | inferred.keys())
    arguments.compare(stated, {k: v for k, v in inferred.items() if k not in ("global_pool",)})
    if stated.get("norm_layer", "layernorm") != "layernorm":
        raise DataError(f"{arguments.WHERE}: norm_layer: expected 'layernorm'")
    pool = stated.get("global_pool", inferred["global_pool"])
    if pool not in POOLS:
        problem = f"expected {', '.join(POOLS)}, got '{pool}'"
        raise DataError(f"config.json: global_pool: {problem}")
    if (pool == "map") != (inferred["global_pool"] == "map") or (
        pool == "token" and not inferred["class_token"]
    ):
        raise DataError(f"config.json: global_pool: '{pool}' does not match the arrays")
    if "global_pool" in stated:
        norm_last = stated.get("fc_norm", pool == "avg")
        if shapes.keys() & {"norm.weight", "fc_norm.weight"}:
            arguments.compare({"fc_norm": norm_last}, {"fc_norm": "fc_norm.weight" in shapes})
    if "mlp_ratio" in stated:
        hidden_size = int(inferred["embed_dim"] * stated["mlp_ratio"])
        arguments.compare({"mlp_ratio": hidden_size}, {"mlp_ratio": vit_arrays.hidden_size(shapes)})
    if "init_values" in stated and not shapes.keys() & {"blocks.0.ls1.gamma"}:
        raise DataError("config.json: init_values: the arrays have no LayerScale")


def _fields(stated: Mapping[str, Any], inferred: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of our model that the arrays and the document state."""
    pool = POOLS[stated.get("global_pool", inferred["global_pool"])]
    fields = {
        "num_classes": inferred["num_classes"],
        "representation_size": 0,
        "pool.name": pool,
        "keep_class_token": inferred["class_token"] and pool != "cls",
        "pool.fc_norm": inferred["fc_norm"],
        "attention.qk_norm": inferred["qk_norm"],
        "attention.qkv_bias": inferred["qkv_bias"],
        "num_registers": inferred["reg_tokens"],
    }
    if inferred["mlp_layer"] == "swiglu":
        if stated.get("act_layer", "silu") not in ("silu", "swish"):
            raise DataError("config.json: act_layer: expected 'silu' for a gated MLP")
        return fields
    activation = arguments.read_activation(stated)
    return {**fields, "mlp.activation": activation, "pool.activation": activation}


VIT = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=vit_model.documents_for,
    rewrite=vit_model.rewrite,
    original=Original("timm", vit_model.outputs),
    infer=infer_vit,
)
