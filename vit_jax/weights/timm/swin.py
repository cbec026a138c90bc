"""timm's Swin v1 and v2, and the files of Microsoft, which have timm's names but for `merge`."""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights import swin
from vit_jax.weights.import_spec import IMAGENET, ImportSpec
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule
from vit_jax.weights.timm import arguments, other_models, swin_arrays, swin_model
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
MICROSOFT = {"merge": "{i}", "head": "head"}  # merges at the end of a stage

# What timm's code computes with all of its weights.
FIELDS = {
    **swin.FIELDS,
    "attention.pad_order": "shift_pad",
    "attention.limit": "each",
    "merge_eps": 0.0,
    "norm_eps": 1e-5,
    "mlp.activation": "gelu",
}
# How timm preprocesses images where no document states it, by what names of ours begin with.
USUAL: dict[str, Fields] = {
    "swin": {"crop_fraction": 0.9, "interpolation": "bicubic", **IMAGENET},
    "swinv2": {"crop_fraction": 0.9, "interpolation": "bicubic", **IMAGENET},
}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the names that a file uses, from the shapes of its arrays."""
    return MICROSOFT if "layers.0.downsample.norm.weight" in shapes else PUBLISHED


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the names with which to write a model: timm's."""
    return PUBLISHED


# The arguments of timm's Swin that are compared or read here.
ARGUMENTS = {"act_layer", "global_pool", "img_size", "mlp_ratio", "window_size"}
ARGUMENTS |= {"num_heads", "depths", "pretrained_window_sizes"}


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Return what the arrays state, and the `config.json` beside them.

    Raises:
      DataError: The document is incomplete or contradicts the arrays, or the model is none of ours.
    """
    other_models.refuse(shapes)
    shown = swin_arrays.show(shapes)
    document = timm_documents.read(documents, "swin")
    stated = document.arguments(shown["embed_dim"]) if document else {}
    _check(stated, shown, document.num_features if document else 0)
    data, notes = timm_documents.read_preprocessing(document, USUAL, series, shown["in_chans"])
    class_names, more = timm_documents.read_class_names(document, shown["num_classes"])
    fields = {**FIELDS, "num_classes": shown["num_classes"]}
    fields["attention.qkv_bias"] = shown["qkv_bias"]
    if shown["is_v2"]:
        sides = stated.get("pretrained_window_sizes", ())
        fields |= {**swin.V2, "posemb.pretrained_window": _sides(sides, len(shown["depths"]))}
        if not document:
            more += ("posemb.pretrained_window is taken for none: 12to16 and 12to24 have some",)
    else:
        fields |= {**swin.V1, "posemb.interpolation": "geometric"}
    return ImportSpec(
        fields=fields,
        sizes=_sizes(shapes, shown, stated),
        data=data,
        class_names=class_names,
        notes=(*notes, *more),
    )


def _check(stated: Mapping[str, Any], shown: Mapping[str, Any], num_features: int) -> None:
    """Refuse what the document states where it makes another model or contradicts the arrays.

    Raises:
      DataError: It does.
    """
    keys = ("embed_dim", "in_chans", "patch_size", "num_classes", "qkv_bias")
    compared = {key: shown[key] for key in keys}
    arguments.check(stated, ARGUMENTS | compared.keys())
    arguments.compare(stated, compared)
    stages = len(shown["depths"])
    for key in ("depths", "num_heads"):
        if key in stated and shown[key]:
            arguments.compare({key: list(stated[key])[:stages]}, {key: shown[key]})
    if num_features:
        last = shown["embed_dim"] * 2 ** (stages - 1)
        arguments.compare({"num_features": num_features}, {"num_features": last})
    if "mlp_ratio" in stated:
        hidden = int(shown["embed_dim"] * stated["mlp_ratio"])
        arguments.compare({"mlp_ratio": hidden}, {"mlp_ratio": shown["hidden"]})
    pool = stated.get("global_pool", "avg")
    if pool != "avg":
        raise DataError(f"config.json: global_pool: expected 'avg', got '{pool}'")
    if stated.get("act_layer", "gelu") != "gelu":
        raise DataError("config.json: act_layer: expected 'gelu', which timm's Swin has")


def _sides(value: Any, stages: int) -> tuple[int, ...]:
    """Return the sides of the windows that weights were trained with; empty if there are none.

    Raises:
      DataError: They are no squares.
    """
    sides = tuple(arguments.plain(side) for side in value)[:stages]
    if not all(type(side) is int for side in sides):
        problem = f"expected a side for each stage, got {value!r:.60}"
        raise DataError(f"config.json: pretrained_window_sizes: {problem}")
    return sides if any(sides) else ()


def _sizes(shapes: Shapes, shown: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes to compare; none where they are those of another model."""
    if not shown["num_heads"]:
        return {}
    sizes = {"depths": shown["depths"], "num_heads": shown["num_heads"]}
    window = swin_arrays.window(shapes) or swin_arrays.one_window(stated, len(shown["depths"]))
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
