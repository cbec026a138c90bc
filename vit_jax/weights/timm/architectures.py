"""The constructor arguments that the names of timm's models stand for.

`config.json` names an `architecture`. The name stands for constructor arguments, not all of which
show in the arrays. Arguments have timm's names here. The tables describe timm 1.0.31.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vit_jax.errors import DataError

Arguments = Mapping[str, Any]  # arguments of a constructor of timm

# (width, number of heads) of ViT, by the size in the name.
VIT_SIZES = {
    "tiny": (192, 3),
    "wee": (256, 4),
    "little": (320, 5),
    "small": (384, 6),
    "medium": (512, 8),
    "mediumd": (512, 8),
    "betwixt": (640, 10),
    "base": (768, 12),
    "plus": (896, 14),  # of vit_base_patch16_plus_240
    "so150m": (896, 14),
    "so150m2": (832, 13),
    "large": (1024, 16),
    "so400m": (1152, 16),
    "huge": (1280, 16),
    "giant": (1408, 16),
    "giantopt": (1536, 16),
    "gigantic": (1664, 16),
}
# (width, depths, number of heads) of the first stage of Swin, by the size in the name.
SWIN_SIZES = {
    "tiny": (96, (2, 2, 6, 2), 3),
    "small": (96, (2, 2, 18, 2), 3),
    "base": (128, (2, 2, 18, 2), 4),
    "large": (192, (2, 2, 18, 2), 6),
}
S3_DEPTHS = {"tiny": (2, 2, 6, 2), "small": (2, 2, 18, 2), "base": (2, 2, 30, 2)}
S3_WINDOWS = {"tiny": (7, 7, 14, 7), "small": (14, 14, 14, 7), "base": (7, 7, 14, 7)}

GAP = {"class_token": False, "global_pool": "avg"}
MAP = {"class_token": False, "global_pool": "map"}
REGISTERS = {"no_embed_class": True}  # the name has the number of registers
# The models of timm that we have, and their arguments. The first pattern that matches a whole name
# decides.
SUPPORTED: tuple[tuple[str, Arguments], ...] = (
    (r"test_vit", {}),
    (r"test_vit2", {**GAP, "reg_tokens": 1}),
    (r"vit_{size}_patch\d+(_plus|_36x1)?_\d+(_in21k|_dino|_sam)?", {}),
    (r"vit_(tiny_r_s16_p8|(small|base)_r26_s32|base_r50_s16|large_r50_s32)_\d+(_in21k)?", {}),
    (r"vit_base_resnet50_(224_in21k|384)", {}),
    (r"deit_{size}_patch16_\d+", {}),
    (r"deit_{size}_distilled_patch16_\d+", {"distilled": True}),
    (r"deit3_{size}_patch\d+_\d+(_in21ft1k)?", {"no_embed_class": True}),
    (r"flexivit_{size}", {"no_embed_class": True}),
    (r"eva_large_patch14_\d+", {"global_pool": "avg"}),
    (r"vit_{size}_patch14_dinov2", {}),
    (r"vit_{size}_patch14_reg(?P<registers>\d)_(dinov2|tipsv2)", REGISTERS),
    (r"vit_{size}_patch\d+_siglip_\d+", MAP),
    (r"vit_base_patch16_224_miil(_in21k)?", {"qkv_bias": False}),
    (r"vit_(?P<size>medium|betwixt)_patch16_gap_\d+", {**GAP, "fc_norm": False, "qkv_bias": False}),
    (r"vit_{size}_patch\d+(_siglip)?_gap_\d+", {**GAP, "fc_norm": False}),
    (r"vit_(?P<size>so150m2)_patch16_reg(?P<registers>1)_gap_\d+", {**GAP, "qkv_bias": False}),
    (r"vit_so150m_patch16_reg(?P<registers>4)_gap_\d+", {**GAP, "fc_norm": False}),
    (r"vit_so150m_patch16_reg(?P<registers>4)_map_\d+", MAP),
    (r"vit_{size}_patch16_reg(?P<registers>\d)_gap_\d+", {**GAP, **REGISTERS}),
    (r"swin_{size}_patch4_window(?P<window>\d+)_\d+(_in22k)?", {}),
    (r"swin_s3_{size}_224", {}),
    (r"swinv2_{size}_window(?P<window>\d+)_\d+(_22k)?", {}),
    (
        r"swinv2_{size}_window12to(?P<window>\d+)_192to\d+(_22kft1k)?",
        {"pretrained_window_sizes": (12, 12, 12, 6)},
    ),
)
# Names with the tanh form of GELU, exceptions to them, and names with SwiGLU.
TANH = r"vit_(base_patch32|(so400m|giantopt)_patch16|large_patch16)_siglip(_gap)?_\d+"
NOT_TANH = r"vit_large_patch16_siglip(_gap)?_(256|384)"
SWIGLU = r"vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)"

# The models of timm that we do not have, and why.
UNSUPPORTED: tuple[tuple[str, str], ...] = (
    (r".*_clip_.*", "it has a norm before the blocks (pre_norm=True)"),
    (r".*_rpn_\d+", "its norms follow attention and MLP (block_fn=ResPostBlock)"),
    (r".*_18x2_\d+", "its blocks have two branches (block_fn=ParallelThingsBlock)"),
    (r".*_(xp|d?pwee)_.*|vit_d?pwee_.*", "its attention and MLP are parallel"),
    (r"vit_d(wee|little)_.*", "it has differential attention (attn_layer=diff)"),
    (r".*_radio_.*|vit_intern.*", "it has no norm after the blocks (final_norm=False)"),
    (r"vit_\w+_resnet(26|50)d_.*|vit_base_mci_.*", "it has another stem"),
    (r"aimv2_.*|test_vit4", "it has RMS norms (norm_layer=rmsnorm)"),
    (r"beit3_.*", "it has norms inside attention and MLP (scale_attn_norm=True)"),
    (r"test_vit3", "its pool reads prefix tokens (pool_include_prefix=True)"),
    (r".*_rope_.*|.*eva02.*|.*dinov3.*", "it has rotary positions"),
    (r"beit(v2)?_.*", "it has relative positions"),
)


class Architecture(NamedTuple):
    """The arguments that the name of a model stands for.

    Attributes:
      family: The family of our model: vit or swin.
      kind: Arguments that do not depend on the sizes.
      sizes: Sizes. They apply only to weights of the same `embed_dim`.
    """

    family: str
    kind: Arguments
    sizes: Arguments


def find(name: str) -> Architecture:
    """Return the arguments that a model name of timm stands for. A tag after a dot is ignored.

    Raises:
      DataError: We do not have the model.
    """
    bare = name.split(".")[0]
    where = f"config.json: architecture: '{name}'"
    for pattern, reason in UNSUPPORTED:
        if re.fullmatch(pattern, bare):
            raise DataError(f"{where} is not supported: {reason}")
    sizes = "|".join(VIT_SIZES)
    for pattern, kind in SUPPORTED:
        match = re.fullmatch(pattern.replace("{size}", f"(?P<size>{sizes})"), bare)
        if match:
            return _read(bare, match.groupdict(), dict(kind))
    hint = "to go by the arrays alone, remove config.json and give --model"
    raise DataError(f"{where} is not a ViT, DeiT, DINOv2, hybrid or Swin of timm 1.0.31; {hint}")


def _read(name: str, parts: Mapping[str, str | None], kind: dict[str, Any]) -> Architecture:
    """Return the arguments of a name, from the named groups of its pattern."""
    size = parts.get("size") or ""
    if name.startswith("swin"):
        return _read_swin(name, size, parts, kind)
    if parts.get("registers"):
        kind["reg_tokens"] = int(parts["registers"] or 0)
    if re.fullmatch(TANH, name) and not re.fullmatch(NOT_TANH, name):
        kind["act_layer"] = "gelu_tanh"
    if name.startswith("test_"):
        return Architecture("vit", kind, {"embed_dim": 64, "num_heads": 2})
    if not size:  # a hybrid, whose pattern has no group for the size
        size = name.split("_")[1]
    width, heads = VIT_SIZES["plus" if "_plus_" in name else size]
    if re.fullmatch(SWIGLU, name):
        kind |= {"mlp_layer": "swiglu", "act_layer": "silu"}
        width, heads = 1536, 24
    if re.fullmatch(r"vit_base_patch16_gap_\d+", name):
        heads = 16
    return Architecture("vit", kind, {"embed_dim": width, "num_heads": heads})


def _read_swin(
    name: str, size: str, parts: Mapping[str, str | None], kind: dict[str, Any]
) -> Architecture:
    width, depths, heads = SWIN_SIZES[size]
    window: Any = int(parts.get("window") or 0)
    if name.startswith("swin_s3"):
        width, depths, heads = 96, S3_DEPTHS[size], 3
        window = S3_WINDOWS[size]
    num_heads = tuple(heads * 2**i for i in range(len(depths)))
    sizes = {"embed_dim": width, "depths": depths, "num_heads": num_heads, "window_size": window}
    return Architecture("swin", kind, sizes)
