"""Which of our models the weights of timm are, from their arrays and their `config.json`."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.library import Documents, Shapes
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import swin_arrays, vit_arrays

# Our names of sizes, by width.
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
HYBRIDS = {  # by the blocks of the ResNet's stages, and the width
    (): {192: "vit_r_ti16"},
    (2, 2, 2, 2): {384: "vit_r26_s32", 768: "vit_r26_b32"},
    (3, 4, 9): {768: "vit_r50_b16"},
    (3, 4, 6, 3): {1024: "vit_r50_l32"},
}
SWIN_SIZES = {96: "t", 128: "b", 192: "l"}
SERIES = ("deit3", "deit", "dinov2")  # as they are in the names of timm; else vit


def infer_vit(shapes: Shapes, documents: Documents) -> Mapping[str, Any]:
    """Return the name of our ViT and its fields; empty without a document, or for another family.

    Raises:
      DataError: The document does not say the number of heads, or names no model of ours.
    """
    if "blocks.0.norm1.weight" not in shapes:
        return {}
    document = timm_documents.read(documents, "vit")
    if document is None:
        return {}
    shown = vit_arrays.show(shapes)
    width = shown["embed_dim"]
    stated = document.arguments(width)
    if "num_heads" not in stated:
        problem = f"unknown for a width of {width}; give --model and --model.num_heads"
        raise DataError(f"config.json: num_heads: {problem}")
    has_scales = "blocks.0.ls1.gamma" in shapes
    hidden = vit_arrays.hidden(shapes)
    is_swiglu = shown["mlp_layer"] == "swiglu"
    series = next((name for name in SERIES if name in document.architecture), "vit")
    fields = {
        "width": width,
        "depth": shown["depth"],
        "num_heads": stated["num_heads"],
        "mlp_dim": hidden // 2 if is_swiglu else hidden,
        "mlp.name": shown["mlp_layer"],
        "attention.qk_norm": shown["qk_norm"],
        "num_registers": shown["reg_tokens"],
        "distilled": shown["distilled"],
        "stem.patch": shown["patch_size"],
    }
    if has_scales != (series in ("deit3", "dinov2")):
        fields["block.layer_scale"] = 1e-5 if has_scales else 0.0
    if any(name.startswith("patch_embed.backbone.") for name in shapes):
        return fields | {"name": _hybrid(shapes, width)}
    sizes = {**VIT_SIZES, 1536: "g"} if series == "dinov2" else VIT_SIZES
    name = f"{series}_{_nearest(sizes, width)}{shown['patch_size'][0]}"
    if shown["distilled"] and series == "deit":
        name += "_distilled"
    return fields | {"name": name}


def infer_swin(shapes: Shapes, documents: Documents) -> Mapping[str, Any]:
    """Return the name of our Swin and its fields; empty without a document, or for another family.

    Raises:
      DataError: Neither arrays nor document say the window, or it names no model of ours.
    """
    if "layers.0.blocks.0.norm1.weight" not in shapes:
        return {}
    document = timm_documents.read(documents, "swin")
    if document is None:
        return {}
    shown = swin_arrays.show(shapes)
    width = shown["embed_dim"]
    stated = document.arguments(width)
    window = swin_arrays.window(shapes) or swin_arrays.one_window(stated, len(shown["depths"]))
    if not window:
        problem = f"unknown for a width of {width}; give --model, such as swinv2_t_w8"
        raise DataError(f"config.json: window_size: {problem}")
    series = "swinv2" if shown["is_v2"] else "swin"
    size = _nearest(SWIN_SIZES, width)
    if size == "t" and max(shown["depths"]) > 6:
        size = "s"
    return {
        "name": f"{series}_{size}_w{window}",
        "width": width,
        "depths": shown["depths"],
        "num_heads": shown["num_heads"],
        "mlp_ratio": shown["hidden"] / width,
        "stem.patch": shown["patch_size"],
        "attention.window": (window, window),
    }


def _hybrid(shapes: Shapes, width: int) -> str:
    """Return the name of the hybrid with this ResNet and the nearest width."""
    layers: list[int] = []
    while True:
        start = f"patch_embed.backbone.stages.{len(layers)}.blocks."
        ends = {name[len(start) :].split(".")[0] for name in shapes if name.startswith(start)}
        if not ends:
            break
        layers.append(len(ends))
    if tuple(layers) not in HYBRIDS:
        raise DataError(f"there is no hybrid with stages of {layers} blocks")
    return _nearest(HYBRIDS[tuple(layers)], width)


def _nearest(names: Mapping[int, str], width: int) -> str:
    return names[min(names, key=lambda known: abs(math.log(known / max(1, width))))]
