"""The fields that the name of a model stands for.

A name is FAMILY_SIZEPATCH followed by a variant: any size of the family with any patch, such as
`vit_b14` or `deit_s16_distilled`. The only hybrids are `HYBRIDS`. Swin is FAMILY_SIZE_wWINDOW, with
patches of 4 and any window, such as `swin_t_w7`.
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


class Family(NamedTuple):
    """Models that share sizes, and the fields in which they differ from the published ViT."""

    sizes: dict[str, Fields]
    fields: Fields
    variants: dict[str, Fields]  # by the suffix of the name


FAMILIES = {
    "vit": Family(
        SIZES,
        {},
        {
            "": {},
            # The textbook Transformer encoder: norm after the residual, ReLU, dropout only inside
            # the feed-forward network and on the attention weights.
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
    "deit": Family(SIZES, {}, {"": {}, "_distilled": {"distilled": True}}),
    # Touvron et al. 2022: LayerScale, and no position for the class token.
    "deit3": Family(SIZES, {"block.layer_scale": 1e-4, "posemb.prefix": False}, {"": {}}),
    # Oquab et al. 2023; the registers: Darcet et al. 2024.
    "dinov2": Family(
        SIZES | {"g": _size(1536, 40, 24, 4096) | {"mlp.name": "swiglu"}},
        {"block.layer_scale": 1e-5},
        {"": {}, "_reg4": {"num_registers": 4}},
    ),
}

# R+ViT (Steiner et al. 2021, table 1 and section 3.1). The number is the stride that the paper's
# names give; R+Ti/16 projects 8x8 cells of a map that is a quarter of the image.
HYBRIDS = {
    "vit_r_ti16": ("ti", (8, 8), ()),
    "vit_r26_s32": ("s", (1, 1), (2, 2, 2, 2)),
    "vit_r26_b32": ("b", (1, 1), (2, 2, 2, 2)),
    "vit_r50_b16": ("b", (1, 1), (3, 4, 9)),
    "vit_r50_l32": ("l", (1, 1), (3, 4, 6, 3)),
}


def _pyramid(width: int, depths: tuple[int, ...], first_heads: int) -> Fields:
    heads = tuple(first_heads * 2**i for i in range(len(depths)))
    return {"width": width, "depths": depths, "num_heads": heads}


# Liu et al. 2021, section 3.3; Liu et al. 2022, section 4.1.
SWIN_SIZES = {
    "t": _pyramid(96, (2, 2, 6, 2), 3),
    "s": _pyramid(96, (2, 2, 18, 2), 3),
    "b": _pyramid(128, (2, 2, 18, 2), 4),
    "l": _pyramid(192, (2, 2, 18, 2), 6),
}
SWIN_FAMILIES: dict[str, Fields] = {
    "swin": {},
    "swinv2": {"block.name": "res_post", "attention.cosine": True, "posemb.name": "log_cpb"},
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
    "swin_t_w7",
    "swin_s_w7",
    "swin_b_w7",
    "swin_b_w12",
    "swin_l_w7",
    "swin_l_w12",
    "swinv2_t_w8",
    "swinv2_t_w16",
    "swinv2_s_w8",
    "swinv2_s_w16",
    "swinv2_b_w8",
    "swinv2_b_w16",
)

_SIZES = "|".join(SIZES)
_NAME = re.compile(rf"(?P<family>\w+)_(?P<size>{_SIZES})(?P<patch>[1-9]\d*)(?P<variant>(_\w+)?)")
_SWIN_NAME = re.compile(r"(?P<family>\w+)_(?P<size>[a-z]+)_w(?P<window>[1-9]\d*)")


class Preset(NamedTuple):
    """The module of a name, `vit` or `swin`, and the fields that the name sets."""

    module: str
    fields: Fields


def find(name: str) -> Preset | None:
    """Return the preset of a name, or None where no model has that name."""
    if name in HYBRIDS:
        size, patch, layers = HYBRIDS[name]
        stem = {"stem.name": "resnet", "stem.patch": patch, "stem.layers": layers}
        return Preset("vit", {**SIZES[size], **stem})
    if match := _SWIN_NAME.fullmatch(name):
        fields = SWIN_FAMILIES.get(match["family"])
        pyramid = SWIN_SIZES.get(match["size"])
        if fields is not None and pyramid is not None:
            window = (int(match["window"]),) * 2
            return Preset("swin", {**pyramid, "attention.window": window, **fields})
    match = _NAME.fullmatch(name)
    family = FAMILIES.get(match["family"]) if match else None
    if not match or not family:
        return None
    sizes = family.sizes.get(match["size"])
    variant = family.variants.get(match["variant"])
    if sizes is None or variant is None:
        return None
    patch = (int(match["patch"]),) * 2
    return Preset("vit", {**sizes, "stem.patch": patch, **family.fields, **variant})
