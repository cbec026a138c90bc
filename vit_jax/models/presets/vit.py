"""Model names of ViT: SERIES_SIZEPATCH[_VARIANT], such as `vit_b14` or `deit_s16_distilled`.

Every size of a series can be combined with any patch. The only hybrids are `HYBRIDS`.
"""

import re
from typing import Any, NamedTuple

Fields = dict[str, Any]  # by path, such as `stem.patch`


def _size(width: int, depth: int, num_heads: int, mlp_dim: int) -> Fields:
    return {"width": width, "depth": depth, "num_heads": num_heads, "mlp_dim": mlp_dim}


# Ti, S, B, L: DeiT and ViT; M: DeiT III; mu, So400m: big_vision and Alabdulmohsin et al. 2023;
# H: ViT; g, G: Zhai et al. 2022, table 2.
SIZES = {
    "mu": _size(32, 1, 2, 128),
    "ti": _size(192, 12, 3, 768),
    "s": _size(384, 12, 6, 1536),
    "m": _size(512, 12, 8, 2048),
    "b": _size(768, 12, 12, 3072),
    "l": _size(1024, 24, 16, 4096),
    "so400m": _size(1152, 27, 16, 4304),
    "h": _size(1280, 32, 16, 5120),
    "g": _size(1408, 40, 16, 6144),
    "G": _size(1664, 48, 16, 8192),
}


class Series(NamedTuple):
    """Models that share sizes, and the fields in which they differ from the original ViT."""

    sizes: dict[str, Fields]
    fields: Fields
    variants: dict[str, Fields]  # by suffix of the name


SERIES = {
    "vit": Series(
        SIZES,
        {},
        {
            "": {},
            # The textbook Transformer encoder: post-norm, ReLU, dropout only in the feed-forward
            # network and on the attention weights.
            "_textbook": {
                "block.name": "post",
                "mlp.activation": "relu",
                "dropout": 0.1,
                "dropout_sites": ("mlp",),
                "attention.dropout": 0.1,
                "norm_eps": 1e-5,
            },
        },
    ),
    # Touvron et al. 2021, table 1; the distillation token: section 4.
    "deit": Series(SIZES, {}, {"": {}, "_distilled": {"distilled": True}}),
    # Touvron et al. 2022: LayerScale, and no position for the class token.
    "deit3": Series(SIZES, {"block.layer_scale": 1e-4, "posemb.prefix": False}, {"": {}}),
    # Oquab et al. 2023; the registers: Darcet et al. 2024.
    "dinov2": Series(
        SIZES | {"g": _size(1536, 40, 24, 4096) | {"mlp.name": "swiglu"}},
        {"block.layer_scale": 1e-5},
        {"": {}, "_reg4": {"num_registers": 4}},
    ),
}

# R+ViT (Steiner et al. 2021, table 1 and section 3.1). The numbers in the names are the paper's.
# R+Ti/16 projects 8x8 patches of a feature map with a quarter of the image size: its stride is 32.
HYBRIDS = {
    "vit_r_ti16": ("ti", (8, 8), ()),
    "vit_r26_s32": ("s", (1, 1), (2, 2, 2, 2)),
    "vit_r26_b32": ("b", (1, 1), (2, 2, 2, 2)),
    "vit_r50_b16": ("b", (1, 1), (3, 4, 9)),
    "vit_r50_l32": ("l", (1, 1), (3, 4, 6, 3)),
}

# The published models, and the textbook model.
NAMES = (
    "vit_mu16",
    "vit_ti16",
    "vit_s16",
    "vit_s32",
    "vit_m16",
    "vit_b8",
    "vit_b16",
    "vit_b32",
    "vit_b16_textbook",
    "vit_l16",
    "vit_l32",
    "vit_so400m14",
    "vit_h14",
    "vit_g14",
    "vit_G14",
    *HYBRIDS,
    "deit_ti16",
    "deit_s16",
    "deit_b16",
    "deit_ti16_distilled",
    "deit_s16_distilled",
    "deit_b16_distilled",
    "deit3_s16",
    "deit3_m16",
    "deit3_b16",
    "deit3_l16",
    "deit3_h14",
    "dinov2_s14",
    "dinov2_b14",
    "dinov2_l14",
    "dinov2_g14",
    "dinov2_s14_reg4",
    "dinov2_b14_reg4",
    "dinov2_l14_reg4",
    "dinov2_g14_reg4",
)

_SIZES = "|".join(SIZES)
_NAME = re.compile(rf"(?P<series>\w+)_(?P<size>{_SIZES})(?P<patch>[1-9]\d*)(?P<variant>(_\w+)?)")


def find(name: str) -> Fields | None:
    """Return the fields that a model name sets, or None if it is not a name of ViT."""
    if name in HYBRIDS:
        size, patch, layers = HYBRIDS[name]
        stem = {"stem.name": "resnet", "stem.patch": patch, "stem.layers": layers}
        return {**SIZES[size], **stem}
    match = _NAME.fullmatch(name)
    series = SERIES.get(match["series"]) if match else None
    if not match or not series:
        return None
    sizes = series.sizes.get(match["size"])
    variant = series.variants.get(match["variant"])
    if sizes is None or variant is None:
        return None
    patch = (int(match["patch"]),) * 2
    return {**sizes, "stem.patch": patch, **series.fields, **variant}
