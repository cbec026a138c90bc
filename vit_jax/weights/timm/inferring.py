"""Infer our model from the arrays and the `config.json` of timm."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.library import Documents, Shapes
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import swin_arrays, vit_arrays

# Sizes in our model names, by width.
VIT_SIZES = {
    32: "mu",
    192: "ti",
    384: "s",
    512: "m",
    768: "b",
    1024: "l",
    1152: "so400m",
    1280: "h",
    1408: "g",
    1664: "G",
}
HYBRIDS = {  # by the number of blocks per stage of the ResNet, then by width
    (): {192: "vit_r_ti16"},
    (2, 2, 2, 2): {384: "vit_r26_s32", 768: "vit_r26_b32"},
    (3, 4, 9): {768: "vit_r50_b16"},
    (3, 4, 6, 3): {1024: "vit_r50_l32"},
}
SWIN_SIZES = {96: "t", 128: "b", 192: "l"}
SERIES = ("deit3", "deit", "dinov2")  # as in timm's names; all others are vit


def infer_vit(shapes: Shapes, documents: Documents) -> Mapping[str, Any]:
    """Infer our ViT from weights of timm.

    Args:
      shapes: Shapes of the arrays, by name.
      documents: The documents, by file name.

    Returns:
      The name of our model and its fields; empty without a document, or for another family.

    Raises:
      DataError: The document does not state the number of heads, or names a model that we do not
        have.
    """
    if "blocks.0.norm1.weight" not in shapes:
        return {}
    document = timm_documents.read(documents, "vit")
    if document is None:
        return {}
    inferred = vit_arrays.infer_arguments(shapes)
    width = inferred["embed_dim"]
    stated = document.arguments(width)
    if "num_heads" not in stated:
        problem = f"unknown for width {width}; give --model and --model.num_heads"
        raise DataError(f"config.json: num_heads: {problem}")
    has_scales = "blocks.0.ls1.gamma" in shapes
    hidden_size = vit_arrays.hidden_size(shapes)
    is_swiglu = inferred["mlp_layer"] == "swiglu"
    series = next((name for name in SERIES if name in document.architecture), "vit")
    fields = {
        "width": width,
        "depth": inferred["depth"],
        "num_heads": stated["num_heads"],
        "mlp_dim": hidden_size // 2 if is_swiglu else hidden_size,
        "mlp.name": inferred["mlp_layer"],
        "attention.qk_norm": inferred["qk_norm"],
        "num_registers": inferred["reg_tokens"],
        "distilled": inferred["distilled"],
        "stem.patch": inferred["patch_size"],
    }
    if has_scales != (series in ("deit3", "dinov2")):
        fields["block.layer_scale"] = 1e-5 if has_scales else 0.0
    if any(name.startswith("patch_embed.backbone.") for name in shapes):
        return fields | {"name": _hybrid(shapes, width)}
    sizes = {**VIT_SIZES, 1536: "g"} if series == "dinov2" else VIT_SIZES
    name = f"{series}_{_nearest(sizes, width)}{inferred['patch_size'][0]}"
    if inferred["distilled"] and series == "deit":
        name += "_distilled"
    return fields | {"name": name}


def infer_swin(shapes: Shapes, documents: Documents) -> Mapping[str, Any]:
    """Infer our Swin from weights of timm.

    Args:
      shapes: Shapes of the arrays, by name.
      documents: The documents, by file name.

    Returns:
      The name of our model and its fields; empty without a document, or for another family.

    Raises:
      DataError: Neither the arrays nor the document state the window, or the document names a model
        that we do not have.
    """
    if "layers.0.blocks.0.norm1.weight" not in shapes:
        return {}
    document = timm_documents.read(documents, "swin")
    if document is None:
        return {}
    inferred = swin_arrays.infer_arguments(shapes)
    width = inferred["embed_dim"]
    stated = document.arguments(width)
    window = swin_arrays.infer_window(shapes) or swin_arrays.read_window(
        stated, len(inferred["depths"])
    )
    if not window:
        problem = f"unknown for width {width}; give --model, such as swinv2_t_w8"
        raise DataError(f"config.json: window_size: {problem}")
    series = "swinv2" if inferred["is_v2"] else "swin"
    size = _nearest(SWIN_SIZES, width)
    if size == "t" and max(inferred["depths"]) > 6:
        size = "s"
    return {
        "name": f"{series}_{size}_w{window}",
        "width": width,
        "depths": inferred["depths"],
        "num_heads": inferred["num_heads"],
        "mlp_ratio": inferred["hidden"] / width,
        "stem.patch": inferred["patch_size"],
        "attention.window": (window, window),
    }


def _hybrid(shapes: Shapes, width: int) -> str:
    """Return the name of the hybrid with the same ResNet and the nearest width."""
    layers: list[int] = []
    while True:
        start = f"patch_embed.backbone.stages.{len(layers)}.blocks."
        ends = {name[len(start) :].split(".")[0] for name in shapes if name.startswith(start)}
        if not ends:
            break
        layers.append(len(ends))
    if tuple(layers) not in HYBRIDS:
        raise DataError(f"no hybrid has stages of {layers} blocks")
    return _nearest(HYBRIDS[tuple(layers)], width)


def _nearest(names: Mapping[int, str], width: int) -> str:
    return names[min(names, key=lambda other: abs(math.log(other / max(1, width))))]
