"""timm's Swin v1 and v2, and Microsoft's files, which number the merging layers differently."""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights import swin
from vit_jax.weights.import_spec import IMAGENET, ImportSpec
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule
from vit_jax.weights.timm import arguments, swin_arrays, swin_model, unsupported
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm.inferring import infer_swin


def blocks() -> Iterator[Rule]:
    """Yield the rules of the stages' blocks."""
    theirs = "layers.{i}.blocks.{j}."
    ours = "stages_{i}_{j}/"
    yield from norm(f"{theirs}norm1", f"{ours}norm1")
    yield Rule(f"{theirs}attn.qkv.weight", f"{ours}attn/qkv/kernel", "(s h c) d -> d s h c")
    yield Rule(f"{theirs}attn.qkv.bias", f"{ours}attn/qkv/bias", "(s h c) -> s h c")
    biases = (f"{theirs}attn.q_bias", f"{theirs}attn.v_bias")
    yield Rule(biases, f"{ours}attn/qkv/bias_qv", "s (h c) -> s h c")
    yield from swin.bias(f"{theirs}attn.", f"{ours}attn/", "cpb_mlp")
    yield from linear(f"{theirs}attn.proj", f"{ours}attn/out", "d (h c) -> h c d")
    yield from norm(f"{theirs}norm2", f"{ours}norm2")
    yield from linear(f"{theirs}mlp.fc1", f"{ours}mlp/fc1")
    yield from linear(f"{theirs}mlp.fc2", f"{ours}mlp/fc2")
    yield Rule(f"{theirs}attn_mask")


RULES: tuple[Rule, ...] = (
    *linear("patch_embed.proj", "stem/proj", CONV),
    *norm("patch_embed.norm", "stem_norm"),
    *blocks(),
    *swin.merge("layers.{merge}.downsample"),
    *norm("norm", "norm"),
    *linear("{head}", "head"),
)
PUBLISHED = {"merge": "{i1}", "head": "head.fc"}
MICROSOFT = {"merge": "{i}", "head": "head"}  # patch merging at the end of a stage

# Fields that timm's code hard-codes for all of its weights.
FIELDS = {
    **swin.FIELDS,
    "attention.pad_order": "shift_pad",
    "attention.limit": "each",
    "merge_eps": 0.0,
    "norm_eps": 1e-5,
    "mlp.activation": "gelu",
}
# timm's usual preprocessing, for weights without a document, by series.
USUAL_PREPROCESSING: dict[str, Fields] = {
    "swin": {"crop_fraction": 0.9, "interpolation": "bicubic", **IMAGENET},
    "swinv2": {"crop_fraction": 0.9, "interpolation": "bicubic", **IMAGENET},
}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the placeholders of a file, from the names of its arrays."""
    return MICROSOFT if "layers.0.downsample.norm.weight" in shapes else PUBLISHED


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the placeholders of an export: timm's names."""
    return PUBLISHED


# The arguments of timm's Swin that are read or compared here.
ARGUMENTS = {"act_layer", "global_pool", "img_size", "mlp_ratio", "window_size"}
ARGUMENTS |= {"num_heads", "depths", "pretrained_window_sizes"}


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Describe a Swin from its arrays and the `config.json` beside them.

    Raises:
      DataError: The document is incomplete or contradicts the arrays, or we do not have the model.
    """
    unsupported.refuse(shapes)
    inferred = swin_arrays.infer_arguments(shapes)
    document = timm_documents.read(documents, "swin")
    stated = document.arguments(inferred["embed_dim"]) if document else {}
    _check(stated, inferred, document.num_features if document else 0)
    data, notes = timm_documents.read_preprocessing(
        document, USUAL_PREPROCESSING, series, inferred["in_chans"]
    )
    class_names, more = timm_documents.read_class_names(document, inferred["num_classes"])
    fields = {**FIELDS, "num_classes": inferred["num_classes"]}
    fields["attention.qkv_bias"] = inferred["qkv_bias"]
    if inferred["is_v2"]:
        sides = stated.get("pretrained_window_sizes", ())
        fields |= {**swin.V2, "posemb.pretrained_window": _sides(sides, len(inferred["depths"]))}
        if not document:
            more += ("posemb.pretrained_window is taken as empty; 12to16 and 12to24 have one",)
    else:
        fields |= {**swin.V1, "posemb.interpolation": "geometric"}
    return ImportSpec(
        fields=fields,
        sizes=_sizes(shapes, inferred, stated),
        data=data,
        class_names=class_names,
        notes=(*notes, *more),
    )


def _check(stated: Mapping[str, Any], inferred: Mapping[str, Any], num_features: int) -> None:
    """Check that the document describes a model that we have, and agrees with the arrays.

    Raises:
      DataError: It does not.
    """
    keys = ("embed_dim", "in_chans", "patch_size", "num_classes", "qkv_bias")
    compared = {key: inferred[key] for key in keys}
    arguments.check(stated, ARGUMENTS | compared.keys())
    arguments.compare(stated, compared)
    stages = len(inferred["depths"])
    for key in ("depths", "num_heads"):
        if key in stated and inferred[key]:
            arguments.compare({key: list(stated[key])[:stages]}, {key: inferred[key]})
    if num_features:
        last = inferred["embed_dim"] * 2 ** (stages - 1)
        arguments.compare({"num_features": num_features}, {"num_features": last})
    if "mlp_ratio" in stated:
        hidden_size = int(inferred["embed_dim"] * stated["mlp_ratio"])
        arguments.compare({"mlp_ratio": hidden_size}, {"mlp_ratio": inferred["hidden"]})
    pool = stated.get("global_pool", "avg")
    if pool != "avg":
        raise DataError(f"config.json: global_pool: expected 'avg', got '{pool}'")
    if stated.get("act_layer", "gelu") != "gelu":
        raise DataError("config.json: act_layer: expected 'gelu', the only one of timm's Swin")


def _sides(value: Any, stages: int) -> tuple[int, ...]:
    """Return the window side of each stage in pre-training; empty if there are none.

    Raises:
      DataError: A window is not square.
    """
    sides = tuple(arguments.normalize(side) for side in value)[:stages]
    if not all(type(side) is int for side in sides):
        problem = f"expected one number per stage, got {value!r:.60}"
        raise DataError(f"config.json: pretrained_window_sizes: {problem}")
    return sides if any(sides) else ()


def _sizes(
    shapes: Shapes, inferred: Mapping[str, Any], stated: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the sizes to compare with the named model; empty if the arrays are not a Swin's."""
    if not inferred["num_heads"]:
        return {}
    sizes = {"depths": inferred["depths"], "num_heads": inferred["num_heads"]}
    window = swin_arrays.infer_window(shapes) or swin_arrays.read_window(
        stated, len(inferred["depths"])
    )
    return {**sizes, "attention.window": (window, window)} if window else sizes


SWIN = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=swin_model.documents_for,
    original=Original("timm", swin_model.outputs),
    infer=infer_swin,
)
