"""Infer the arguments of timm's ViT from its arrays."""

import re
from typing import Any

from vit_jax.weights.import_spec import num_outputs
from vit_jax.weights.library import Shapes

QKV = "blocks.0.attn.qkv.weight"
QKV_BIAS = "blocks.0.attn.qkv.bias"


def infer_arguments(shapes: Shapes) -> dict[str, Any]:
    """Return the arguments that follow from the arrays, by timm's names. Unknown sizes are 0."""
    kernel = shapes.get("patch_embed.proj.weight", (0, 0, 0, 0))
    if len(kernel) != 4:
        kernel = (0, 0, 0, 0)
    root = ("patch_embed.backbone.stem.conv.weight", "patch_embed.backbone.conv.weight")
    channels = next((shapes[name][1] for name in root if name in shapes), kernel[1])
    inputs = shapes.get("blocks.0.mlp.fc2.weight", shapes.get("blocks.0.mlp.w3.weight", (0, 0)))[1]
    return {
        "embed_dim": shapes.get("blocks.0.norm1.weight", (0,))[0],
        "depth": sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", name)) for name in shapes),
        "in_chans": channels,
        "num_classes": num_outputs(shapes, "head.bias"),
        "class_token": "cls_token" in shapes,
        "distilled": "dist_token" in shapes and not lacks_teacher_head(shapes),
        "reg_tokens": num_registers(shapes),
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "qkv_bias": QKV_BIAS in shapes or QKV not in shapes,
        "mlp_layer": "swiglu" if inputs and hidden_size(shapes) == 2 * inputs else "mlp",
        "fc_norm": "fc_norm.weight" in shapes,
        "global_pool": _pool(shapes),
        "patch_size": kernel[2:],
    }


def hidden_size(shapes: Shapes) -> int:
    """Return the number of outputs of the MLP's first layer; 0 if there is none."""
    names = ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.w12.weight")
    return next((shapes[name][0] for name in names if name in shapes), 0)


def num_registers(shapes: Shapes) -> int:
    """Return the number of register tokens. A distillation token without its head counts as one."""
    if lacks_teacher_head(shapes):
        return 1
    return shapes.get("reg_token", shapes.get("register_tokens", (1, 0, 0)))[1]


def lacks_teacher_head(shapes: Shapes) -> bool:
    """Return whether there is a distillation token, and a head for the class token only."""
    return {"dist_token", "head.weight"} <= shapes.keys() and "head_dist.weight" not in shapes


def token_rows(shapes: Shapes, no_embed_class: bool | None) -> tuple[int, ...]:
    """Return the possible numbers of rows for prefix tokens in the position embedding.

    Args:
      shapes: Shapes of the arrays, by name.
      no_embed_class: Whether prefix tokens have no position embedding; None if no document states
        it.

    Returns:
      The numbers, the usual one first.
    """
    tokens = ("cls_token" in shapes) + ("dist_token" in shapes)
    if "register_tokens" in shapes or "dist_token" in shapes:  # Meta's, and DeiT's
        return (tokens,)
    prefix = tokens + num_registers(shapes)
    if no_embed_class is not None:
        return (0,) if no_embed_class else (prefix,)
    return (0, prefix) if num_registers(shapes) else (tokens, 0)


def _pool(shapes: Shapes) -> str:
    if "attn_pool.latent" in shapes:
        return "map"
    return "avg" if "fc_norm.weight" in shapes or "cls_token" not in shapes else "token"
