"""Swin v1 and v2 in the names of timm, of Microsoft's own files and of transformers."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.rule_builders import linear, norm
from vit_jax.weights.rules import Rule, Shape

# What the code of both libraries computes with all files.
FIELDS = {
    "attention": "window",
    "mask_padding": False,
    "qk_norm": False,
    "layer_scale": 0.0,
    "pool": "gap",
    "representation_size": 0,
}
V1 = {"norm_order": "pre", "cosine": False, "posemb": "relative_bias"}
V2 = {"norm_order": "res_post", "cosine": True, "posemb": "log_cpb"}
# Computed from the window, but stored in many files.
BUFFERS = ("relative_position_index", "relative_coords_table")


def bias(theirs: str, ours: str, network: str) -> Iterator[Rule]:
    """Yield the rules of the attention biases, and of the parameters that they depend on."""
    table = f"{theirs}relative_position_bias_table"
    yield Rule(table, f"{ours}bias/table", "(r c) h -> r c h")
    yield Rule(f"{theirs}logit_scale", f"{ours}logit_scale", "h 1 1 -> h")
    yield from linear(f"{theirs}{network}.0", f"{ours}bias/fc1")
    yield Rule(f"{theirs}{network}.2.weight", f"{ours}bias/fc2/kernel", "o i -> i o")
    for name in BUFFERS:
        yield Rule(f"{theirs}{name}")


def merge(theirs: str) -> Iterator[Rule]:
    """Yield the rules of patch merging."""
    yield from norm(f"{theirs}.norm", "merge_{i}/norm")
    yield Rule(f"{theirs}.reduction.weight", "merge_{i}/reduction/kernel", "o i -> i o")


def timm_rules() -> Iterator[Rule]:
    """Yield the rules of stages in timm's names, which are Microsoft's but for `merge`."""
    yield from norm("patch_embed.norm", "stem_norm")
    theirs = "layers.{i}.blocks.{j}."
    ours = "stages_{i}_{j}/"
    yield from norm(f"{theirs}norm1", f"{ours}norm1")
    yield Rule(f"{theirs}attn.qkv.weight", f"{ours}attn/qkv/kernel", "(s h c) d -> d s h c")
    yield Rule(f"{theirs}attn.qkv.bias", f"{ours}attn/qkv/bias", "(s h c) -> s h c")
    biases = (f"{theirs}attn.q_bias", f"{theirs}attn.v_bias")
    yield Rule(biases, f"{ours}attn/qkv/bias_qv", "s (h c) -> s h c")
    yield from bias(f"{theirs}attn.", f"{ours}attn/", "cpb_mlp")
    yield from linear(f"{theirs}attn.proj", f"{ours}attn/out", "d (h c) -> h c d")
    yield from norm(f"{theirs}norm2", f"{ours}norm2")
    yield from linear(f"{theirs}mlp.fc1", f"{ours}mlp/fc1")
    yield from linear(f"{theirs}mlp.fc2", f"{ours}mlp/fc2")
    yield Rule(f"{theirs}attn_mask")
    yield from merge("layers.{merge}.downsample")


def huggingface_rules() -> Iterator[Rule]:
    """Yield the rules of stages in the names of transformers."""
    yield from norm("{prefix}embeddings.norm", "stem_norm")
    theirs = "{prefix}encoder.layers.{i}.blocks.{j}."
    ours = "stages_{i}_{j}/"
    yield from norm(f"{theirs}layernorm_before", f"{ours}norm1")
    layers = [f"{theirs}attention.self.{name}" for name in ("query", "key", "value")]
    weights = tuple(f"{layer}.weight" for layer in layers)
    biases = tuple(f"{layer}.bias" for layer in layers)
    yield Rule(weights, f"{ours}attn/qkv/kernel", "s (h c) d -> d s h c")
    yield Rule(biases, f"{ours}attn/qkv/bias", "s (h c) -> s h c")
    yield Rule(biases[::2], f"{ours}attn/qkv/bias_qv", "s (h c) -> s h c")
    network = "continuous_position_bias_mlp"
    yield from bias(f"{theirs}attention.self.", f"{ours}attn/", network)
    yield from linear(f"{theirs}attention.output.dense", f"{ours}attn/out", "d (h c) -> h c d")
    yield from norm(f"{theirs}layernorm_after", f"{ours}norm2")
    yield from linear(f"{theirs}intermediate.dense", f"{ours}mlp/fc1")
    yield from linear(f"{theirs}output.dense", f"{ours}mlp/fc2")
    yield from merge("{prefix}encoder.layers.{i}.downsample")


def is_swin(shapes: Mapping[str, Shape]) -> bool:
    """Return whether a file of timm is of this family."""
    return "layers.0.blocks.0.norm1.weight" in shapes


def timm_placeholders(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return the names that a file of timm or Microsoft uses, from the shapes of its arrays."""
    if "layers.0.downsample.norm.weight" in shapes:  # Microsoft merges at the end of a stage
        return {"merge": "{i}", "head": "head"}
    return {"merge": "{i1}", "head": "head.fc" if is_swin(shapes) else "head"}


def describe_timm(
    shapes: Mapping[str, Shape], document: Json
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that timm computes with, and the sizes that the arrays show."""
    first = "layers.{}.blocks.0.attn."
    depths = _depths(shapes, r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight")
    fields = {**FIELDS, "pad_order": "shift_pad", "norm_eps": 1e-5, "activation": "gelu"}
    scales = [shapes.get(first.format(i) + "logit_scale") for i in range(len(depths))]
    if scales[0]:
        args = document.get("model_args")
        pretrained = args.get("pretrained_window_sizes") if isinstance(args, Mapping) else None
        fields |= {**V2, "pretrained_window": _windows(pretrained)}
        return fields, {"depths": depths, "num_heads": tuple(s[0] for s in scales if s)}
    name = "relative_position_bias_table"
    tables = [shapes.get(first.format(i) + name, (1, 0)) for i in range(len(depths))]
    window = (math.isqrt(tables[0][0]) + 1) // 2
    fields |= {**V1, "posemb_interpolation": "geometric"}
    num_heads = tuple(heads for _, heads in tables)
    return fields, {"depths": depths, "num_heads": num_heads, "window": (window, window)}


def describe_huggingface(
    shapes: Mapping[str, Shape], document: Json, where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that transformers computes with, and the sizes that its document states.

    Raises:
      DataError: The document is incomplete, or describes a model that we do not have.
    """
    if document.get("use_absolute_embeddings"):
        raise DataError(f"{where}: use_absolute_embeddings: expected false; there is no such Swin")
    window = read_key(document, "window_size", int, where)
    sizes = {
        "width": read_key(document, "embed_dim", int, where),
        "depths": tuple(read_key(document, "depths", list, where)),
        "num_heads": tuple(read_key(document, "num_heads", list, where)),
        "mlp_ratio": float(read_key(document, "mlp_ratio", float | int, where)),
        "window": (window, window),
    }
    fields = {**FIELDS, "pad_order": "pad_shift"}
    if read_key(document, "model_type", str, where) == "swin":
        return {**fields, **V1}, sizes
    pretrained = _windows(document.get("pretrained_window_sizes"))
    return {**fields, **V2, "pretrained_window": pretrained}, sizes


def timm_architecture(fields: Mapping[str, Any]) -> str:
    """Return a model of timm that is ours with other arguments."""
    return "swinv2_tiny_window8_256" if fields["cosine"] else "swin_tiny_patch4_window7_224"


def timm_arguments(fields: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments with which timm's model of that architecture is ours."""
    arguments = {
        "img_size": list(image_size),
        "patch_size": fields["patch"][0],
        "embed_dim": fields["width"],
        "depths": list(fields["depths"]),
        "num_heads": list(fields["num_heads"]),
        "window_size": fields["window"][0],
        "mlp_ratio": fields["mlp_ratio"],
        "num_classes": fields["num_classes"],
    }
    if fields["cosine"]:
        pretrained = fields["pretrained_window"] or (0,) * len(fields["depths"])
        arguments["pretrained_window_sizes"] = list(pretrained)
    return arguments


def huggingface_document(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of transformers' `config.json` that only Swin has."""
    stages = len(fields["depths"])
    document = {
        "embed_dim": fields["width"],
        "hidden_size": fields["width"] * 2 ** (stages - 1),
        "depths": list(fields["depths"]),
        "num_layers": stages,
        "num_heads": list(fields["num_heads"]),
        "window_size": fields["window"][0],
        "mlp_ratio": fields["mlp_ratio"],
        "use_absolute_embeddings": False,
    }
    if fields["cosine"]:
        document["pretrained_window_sizes"] = list(fields["pretrained_window"] or (0,) * stages)
    return document


def _windows(value: Any) -> tuple[int, ...]:
    """Return the sides of the windows that weights were trained with; empty if unknown."""
    if not isinstance(value, list) or not all(type(side) is int for side in value):
        return ()
    return tuple(value) if any(value) else ()


def _depths(shapes: Mapping[str, Shape], pattern: str) -> tuple[int, ...]:
    matches = [match for name in shapes if (match := re.fullmatch(pattern, name))]
    stages = [int(match[1]) for match in matches]
    return tuple(stages.count(i) for i in range(max(stages) + 1))
