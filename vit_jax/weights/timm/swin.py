"""timm's Swin v1 and v2, and the files of Microsoft, which have timm's names but for `merge`."""

import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.weights import swin
from vit_jax.weights.documents import Json
from vit_jax.weights.import_spec import IMAGENET, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import original


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


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Return what the arrays state, and the `config.json` beside them.

    Raises:
      DataError: The document is incomplete, or a value in it is of the wrong type.
    """
    data, notes = timm_documents.read_preprocessing(documents, USUAL, series)
    classes = num_outputs(shapes, f"{placeholders(shapes)['head']}.bias")
    return ImportSpec(
        fields={**FIELDS, **_version(shapes, documents), "num_classes": classes},
        sizes=_sizes(shapes),
        data=data,
        class_names=timm_documents.read_class_names(documents, classes),
        notes=notes,
    )


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name."""
    given = arguments(fields, data["image_size"])
    return timm_documents.write(architecture(fields), given, fields, data, class_names)


def architecture(fields: Fields) -> str:
    """Return a model of timm that is ours with other arguments."""
    return (
        "swinv2_tiny_window8_256" if fields["attention.cosine"] else "swin_tiny_patch4_window7_224"
    )


def arguments(fields: Fields, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments with which timm's model of that `architecture` is ours."""
    kwargs = {
        "img_size": list(image_size),
        "patch_size": fields["stem.patch"][0],
        "embed_dim": fields["width"],
        "depths": list(fields["depths"]),
        "num_heads": list(fields["num_heads"]),
        "window_size": fields.get("attention.window", (0, 0))[0],
        "mlp_ratio": fields["mlp_ratio"],
        "num_classes": fields["num_classes"],
    }
    if fields["attention.cosine"]:
        pretrained = fields.get("posemb.pretrained_window") or (0,) * len(fields["depths"])
        kwargs["pretrained_window_sizes"] = list(pretrained)
    return kwargs


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what timm's model computes with the weights at a path."""
    given = arguments(fields, tuple(pixels.shape[2:]))
    return original.outputs(architecture(fields), given, path, pixels)


def _version(shapes: Shapes, documents: Documents) -> dict[str, Any]:
    """Return the fields in which v1 and v2 differ."""
    if "layers.0.blocks.0.attn.logit_scale" not in shapes:
        return {**swin.V1, "posemb.interpolation": "geometric"}
    given = documents.get(timm_documents.CONFIG, {}).get("model_args")
    sides = given.get("pretrained_window_sizes") if isinstance(given, Mapping) else None
    return {**swin.V2, "posemb.pretrained_window": swin.window_sides(sides)}


def _sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the sizes that the arrays show; none where they are those of another model."""
    pattern = r"layers\.(\d+)\.blocks\.\d+\.norm1\.weight"
    stages = [int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name))]
    depths = tuple(stages.count(i) for i in range(max(stages, default=-1) + 1))
    firsts = [f"layers.{i}.blocks.0.attn." for i in range(len(depths))]
    scales = [shapes.get(f"{first}logit_scale", ()) for first in firsts]
    if any(scales):
        return {"depths": depths, "num_heads": tuple(scale[0] for scale in scales if scale)}
    tables = [shapes.get(f"{first}relative_position_bias_table", ()) for first in firsts]
    if not all(len(table) == 2 for table in tables) or not tables:
        return {}
    window = (math.isqrt(tables[0][0]) + 1) // 2
    num_heads = tuple(heads for _, heads in tables)
    return {"depths": depths, "num_heads": num_heads, "attention.window": (window, window)}


SWIN = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
    original=Original("timm", outputs),
)
