"""timm's ViT, DeiT, DeiT III, DINOv2 and hybrids."""

import pathlib
from collections.abc import Iterator
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json
from vit_jax.weights.import_spec import HALF, IMAGENET, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule, Shape
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import original


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
    yield from linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1")
    yield from linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2")
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
    Rule("reg_token", "registers", "1 n d -> n d"),
    Rule("pos_embed", ("posemb/prefix", "posemb/grid"), "1 n d -> n d"),
    *blocks(),
    *norm("norm", "norm"),
    *pool(),
    *norm("fc_norm", "fc_norm"),
    *linear("head", "head"),
    *linear("head_dist", "head_dist"),
)
PUBLISHED = {"stem": "stem."}
ROOT_ONLY = {"stem": ""}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the names that a file uses, from the shapes of its arrays."""
    return ROOT_ONLY if "patch_embed.backbone.conv.weight" in shapes else PUBLISHED


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the names with which to write a model, from its fields."""
    return ROOT_ONLY if fields.get("stem.layers") == () else PUBLISHED


# What timm's code computes with all of its weights.
FIELDS = {
    "block.name": "pre",
    "mlp.activation": "gelu",
    "pool.activation": "gelu",
    "attention.name": "full",
    "norm_eps": 1e-6,
    "posemb.name": "learned",
    "posemb.interpolation": "bicubic",
    "posemb.antialias": True,
    "stem.weight_standardization": "variance",
    "stem.norm_eps": 1e-5,
}
# How timm preprocesses images where no document states it, by what names of ours begin with.
USUAL: dict[str, Fields] = {
    "vit": {"crop_fraction": 0.9, "interpolation": "bicubic", **HALF},
    "deit": {"crop_fraction": 0.9, "interpolation": "bicubic", **IMAGENET},
    "deit3": {"crop_fraction": 1.0, "interpolation": "bicubic", **IMAGENET},
    "dinov2": {"crop_fraction": 1.0, "interpolation": "bicubic", **IMAGENET},
}


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Return what the arrays state, and the `config.json` beside them.

    Raises:
      DataError: The document is incomplete, or a value in it is of the wrong type.
    """
    data, notes = timm_documents.read_preprocessing(documents, USUAL, series)
    has_token = "cls_token" in shapes
    is_distilled = "dist_token" in shapes
    pool = _pool(shapes)
    up: Shape = shapes.get("blocks.0.mlp.fc1.weight", (0, 0))
    down: Shape = shapes.get("blocks.0.mlp.fc2.weight", (0, 0))
    classes = num_outputs(shapes, "head.bias")
    return ImportSpec(
        fields={
            **FIELDS,
            "num_classes": classes,
            "representation_size": 0,
            "pool.name": pool,
            "keep_class_token": has_token and pool != "cls",
            "pool.fc_norm": "fc_norm.weight" in shapes,
        },
        sizes={"mlp.name": "swiglu" if up[0] == 2 * down[1] else "mlp"} if up[0] else {},
        positions=shapes.get("pos_embed", (0, 0))[1],
        num_tokens=has_token + is_distilled,
        data=data,
        class_names=timm_documents.read_class_names(documents, classes),
        notes=notes,
    )


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name.

    Raises:
      DataError: timm has no such pool.
    """
    given = arguments(fields, data["image_size"])
    return timm_documents.write(architecture(fields), given, fields, data, class_names)


def architecture(fields: Fields) -> str:
    """Return a model of timm that is ours with other arguments, or "" where there is none."""
    hybrids = {
        (): "vit_tiny_r_s16_p8_224",
        (2, 2, 2, 2): "vit_small_r26_s32_224",
        (3, 4, 9): "vit_base_r50_s16_224",
        (3, 4, 6, 3): "vit_large_r50_s32_224",
    }
    if fields["stem.name"] == "resnet":
        if fields["stem.width_factor"] != 1:
            return ""
        return hybrids.get(tuple(fields["stem.layers"]), "")
    if fields["distilled"]:
        return "deit_base_distilled_patch16_224"
    return "vit_giant_patch14_dinov2" if fields["mlp.name"] == "swiglu" else "vit_base_patch16_224"


def arguments(fields: Fields, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments with which timm's model of that `architecture` is ours.

    Raises:
      DataError: timm has no such pool.
    """
    is_swiglu = fields["mlp.name"] == "swiglu"
    pools = {"cls": "token", "gap": "avg", "map": "map"}
    if fields["pool.name"] not in pools:
        problem = f"timm has no pool {fields['pool.name']}; it cannot be written for timm"
        raise DataError(f"config.model.pool.name: {problem}")
    activations = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "relu": "relu"}
    hidden = 2 * fields["mlp_dim"] if is_swiglu else fields["mlp_dim"]
    kwargs = {
        "img_size": list(image_size),
        "patch_size": list(fields["stem.patch"]),
        "embed_dim": fields["width"],
        "depth": fields["depth"],
        "num_heads": fields["num_heads"],
        "mlp_ratio": hidden / fields["width"],
        "num_classes": fields["num_classes"],
        "qk_norm": fields["attention.qk_norm"],
        "init_values": fields["block.layer_scale"] or None,
    }
    if not is_swiglu:  # else the architecture has it
        kwargs["act_layer"] = activations[fields["mlp.activation"]]
    if not fields["distilled"]:
        kwargs |= {
            "class_token": fields["pool.name"] == "cls" or fields["keep_class_token"],
            "global_pool": pools[fields["pool.name"]],
            "no_embed_class": not fields.get("posemb.prefix", True),
            "reg_tokens": fields["num_registers"],
            "fc_norm": fields["pool.fc_norm"],
        }
    return kwargs


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what timm's model computes with the weights at a path.

    Raises:
      ConfigError: There is no such model.
    """
    given = arguments(fields, tuple(pixels.shape[2:]))
    return original.outputs(architecture(fields), given, path, pixels)


def _pool(shapes: Shapes) -> str:
    if "attn_pool.latent" in shapes:
        return "map"
    if "fc_norm.weight" in shapes:
        return "gap"
    return "cls" if "cls_token" in shapes else "gap"


VIT = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
    original=Original("timm", outputs),
)
