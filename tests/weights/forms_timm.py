"""Forms of timm's weights: from the hub, from the models' authors, and from training scripts."""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from forms import Form, Saved, channel_flags, outputs_of, random_images, randomize
from timm_models import import_timm

Arguments = Mapping[str, Any]
Arrays = dict[str, Any]

SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
}
SMALL_SWIN = {
    "img_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": (2, 1, 1),
    "num_heads": (2, 4, 8),
    "window_size": 4,
    "num_classes": 4,
}


def document_of(model: Any, architecture: str, **facts: Any) -> dict[str, Any]:
    """Return the `config.json` of a folder on the hub."""
    preprocessing = {
        "input_size": [3, 32, 32],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    counts = {"num_classes": model.num_classes, "num_features": model.num_features}
    document = {"architecture": architecture, **counts, **facts}
    return {"pretrained_cfg": preprocessing | document.pop("pretrained_cfg", {}), **document}


def sides_of(size: int | tuple[int, int]) -> str:
    """Return a size (height, width) as the value of a flag."""
    return ",".join(map(str, (size, size) if isinstance(size, int) else size))


def write(
    folder: pathlib.Path,
    arrays: Arrays,
    document: Mapping[str, Any] | None,
    file: str,
    wrap: Callable[[Arrays], Any] | None,
) -> pathlib.Path:
    """Write the arrays of a model, and a document; return the path to import."""
    import safetensors.torch
    import torch

    path = folder / file
    if path.suffix == ".safetensors":
        arrays = {name: array.contiguous().clone() for name, array in arrays.items()}
        safetensors.torch.save_file(arrays, path, metadata={"format": "pt"})
    else:
        torch.save(wrap(arrays) if wrap else arrays, path)
    if document is None:
        return path
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def as_flags(sizes: Mapping[str, Any], arguments: Arguments) -> dict[str, str]:
    """Return the sizes of a model, its patch and its images as flags."""
    return {
        **{f"model.{key}": str(value) for key, value in sizes.items()},
        "model.stem.patch": sides_of(arguments["patch_size"]),
        "data.image_size": sides_of(arguments["img_size"]),
    }


def vit_flags(arguments: Arguments) -> dict[str, str]:
    """Return the sizes of a ViT as flags."""
    sizes = {
        "width": arguments["embed_dim"],
        "depth": arguments["depth"],
        "num_heads": arguments["num_heads"],
        "mlp_dim": int(arguments["embed_dim"] * arguments.get("mlp_ratio", 4)),
    }
    return as_flags(sizes, arguments)


def swin_flags(arguments: Arguments) -> dict[str, str]:
    """Return the sizes of a Swin as flags."""
    sizes = {
        "width": arguments["embed_dim"],
        "depths": ",".join(map(str, arguments["depths"])),
        "num_heads": ",".join(map(str, arguments["num_heads"])),
        "mlp_ratio": arguments.get("mlp_ratio", 4.0),
    }
    return as_flags(sizes, arguments)


def save(
    folder: pathlib.Path,
    text: str,
    *,
    make: Callable[..., Any],
    arguments: Arguments,
    name: str,
    flags: Mapping[str, str],
    document: Callable[[Any], Mapping[str, Any]] | None,
    file: str,
    wrap: Callable[[Arrays], Any] | None,
    size: tuple[int, int] | None,
    dtype: str,
) -> Saved:
    """Build a model, write it and compute its outputs."""
    import torch

    timm = import_timm()
    model = randomize(make(timm, **arguments), text).to(getattr(torch, dtype)).float()
    saved = {key: array.to(getattr(torch, dtype)) for key, array in model.state_dict().items()}
    path = write(folder, saved, document(model) if document else None, file, wrap)
    sides = size or arguments["img_size"]
    height, width = (sides, sides) if isinstance(sides, int) else sides
    channels = arguments.get("in_chans", 3)
    images = random_images(text, channels, (height, width))
    outputs, rounding = outputs_of(model, model, images)
    is_logits = model.num_classes > 0
    said = {**flags, **channel_flags(channels)}
    return Saved(path, images, outputs, rounding, is_logits, name, said)


def form(
    text: str,
    make: Callable[..., Any],
    arguments: Arguments,
    name: str,
    flags: Mapping[str, str],
    *,
    document: Callable[[Any], Mapping[str, Any]] | None = None,
    file: str = "model.safetensors",
    wrap: Callable[[Arrays], Any] | None = None,
    size: tuple[int, int] | None = None,
    dtype: str = "float32",
    refused: str = "",
    note: str = "",
    comes_back: bool = True,
) -> Form:
    """Return a form; see `save` and `Form`."""
    saving = functools.partial(
        save,
        text=text,
        make=make,
        arguments=arguments,
        name=name,
        flags=flags,
        document=document,
        file=file,
        wrap=wrap,
        size=size,
        dtype=dtype,
    )
    return Form(text, saving, refused, note, comes_back)


def plain(timm: Any, **arguments: Any) -> Any:
    """Return timm's ViT."""
    return timm.models.vision_transformer.VisionTransformer(**arguments)


def published(architecture: str) -> Callable[..., Any]:
    """Return a function that makes a model of timm by its name."""
    return lambda timm, **arguments: timm.create_model(architecture, **arguments)


def vit(text: str, name: str = "vit_ti8", **settings: Any) -> Form:
    """Return a form of a ViT without a document: the user gives its sizes."""
    arguments = {**SMALL, **settings.pop("arguments", {})}
    make = settings.pop("make", plain)
    return form(text, make, arguments, name, vit_flags(arguments), **settings)


def hub(text: str, architecture: str, facts: Mapping[str, Any], **settings: Any) -> Form:
    """Return a form of a folder on the hub, whose document describes the model completely."""
    arguments = {**SMALL, **settings.pop("arguments", {})}
    make = settings.pop("make", plain)
    model_args = {**arguments, **facts.get("model_args", {})}
    del model_args["num_classes"]
    said = {**facts, "model_args": model_args}

    def document(model: Any) -> dict[str, Any]:
        return document_of(model, architecture, **said)

    return form(text, make, arguments, "", {}, document=document, **settings)


def swin(text: str, name: str, version: int = 1, **settings: Any) -> Form:
    """Return a form of a Swin without a document."""
    arguments = {**SMALL_SWIN, **settings.pop("arguments", {})}

    def make(timm: Any, **given: Any) -> Any:
        module = timm.models.swin_transformer if version == 1 else timm.models.swin_transformer_v2
        suffix = "V2" if version == 2 else ""
        return getattr(module, f"SwinTransformer{suffix}")(**given)

    return form(text, make, arguments, name, swin_flags(arguments), **settings)


def other(
    architecture: str, refused: str, patch: int = 16, series: str = "vit", **arguments: Any
) -> Form:
    """Return a form of another architecture of timm, whose arrays look like those of a ViT."""
    given = {"img_size": 2 * patch, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
    given |= arguments
    flags = vit_flags({**given, "patch_size": patch})
    make = published(architecture)
    return form(f"`{architecture}`", make, given, f"{series}_ti{patch}", flags, refused=refused)


def hybrid(architecture: str, name: str) -> Form:
    """Return a form of a ViT behind a ResNet."""
    given = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
    flags = vit_flags({**given, "patch_size": 1})
    del flags["model.stem.patch"]
    return form(f"`{architecture}`", published(architecture), given, name, flags)


def facebook(arrays: Arrays) -> Arrays:
    """Return the arrays under the names of the authors of DINOv2."""
    import torch

    named = {("register_tokens" if key == "reg_token" else key): a for key, a in arrays.items()}
    return {**named, "mask_token": torch.zeros(1, arrays["cls_token"].shape[-1])}


def facebook_registers(arrays: Arrays) -> Arrays:
    """Return the same with registers, where only the class token has a position embedding."""
    import torch

    positions = torch.cat([torch.full_like(arrays["cls_token"], 0.5), arrays["pos_embed"]], dim=1)
    return {
        **facebook(arrays),
        "cls_token": arrays["cls_token"] - 0.5,
        "pos_embed": positions,
    }


def masked_autoencoder(arrays: Arrays) -> Any:
    """Return the checkpoint of an MAE pre-training, which has the decoder."""
    import torch

    decoder = {
        f"decoder_blocks.0.{part}": torch.zeros(8) for part in ("norm1.weight", "norm1.bias")
    }
    return {"model": {**arrays, "mask_token": torch.zeros(1, 1, 8), **decoder}}


def training(key: str) -> Callable[[Arrays], Any]:
    """Return a function that makes the checkpoint of a training script, with the model at a key."""
    rest = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    return lambda arrays: {**rest, key: arrays}


def prefixed(prefix: str) -> Callable[[Arrays], Any]:
    """Return a function that makes a state dict whose names all have a prefix."""
    return lambda arrays: {"state_dict": {f"{prefix}{key}": a for key, a in arrays.items()}}


def zeros_beside(arrays: Arrays) -> Any:
    """Return raw weights of zero beside their average, which is the model."""
    import torch

    return {
        "state_dict": {key: torch.zeros_like(array) for key, array in arrays.items()},
        "state_dict_ema": arrays,
    }


AVERAGE = {"class_token": False, "global_pool": "avg", "no_embed_class": True}
DINO = {"img_size": 56, "patch_size": 14, "num_classes": 0, "init_values": 1e-5}

FORMS: dict[str, Form] = {
    "dynamic_larger": vit(
        "a ViT for 48x80 pixels, at 96x112",
        arguments={"img_size": (48, 80), "patch_size": 16, "dynamic_img_size": True},
        size=(96, 112),
    ),
    "dynamic_smaller": vit(
        "a ViT for 112x80 pixels, at 40x64",
        arguments={"img_size": (112, 80), "dynamic_img_size": True},
        size=(40, 64),
    ),
    "grey": vit("one channel", arguments={"in_chans": 1, "img_size": 28, "patch_size": 7}),
    "four_channels": vit(
        "four channels, patches of 6x12",
        arguments={"in_chans": 4, "img_size": (24, 48), "patch_size": (6, 12)},
    ),
    "no_head": vit("no head", arguments={"num_classes": 0}),
    "half": vit("float16", dtype="float16"),
    "bfloat16": vit("bfloat16", dtype="bfloat16"),
    "registers_average": vit(
        "registers and the average of the patches", arguments={**AVERAGE, "reg_tokens": 4}
    ),
    "registers_layer_scale": vit(
        "a register, LayerScale, a wider MLP",
        "dinov2_ti8",
        arguments={**AVERAGE, "reg_tokens": 1, "init_values": 1e-5, "mlp_ratio": 5},
    ),
    "registers_map": vit(
        "registers and the attention pool",
        arguments={**AVERAGE, "reg_tokens": 4, "global_pool": "map"},
    ),
    "registers_positions": vit(
        "registers that have positions", arguments={"reg_tokens": 4, "img_size": 32}
    ),
    "registers_square": vit(
        "registers whose positions, with the grid's, are a square",
        arguments={"reg_tokens": 9, "img_size": 32},
    ),
    "deit3_rect": vit(
        "DeiT III for 64x32 pixels",
        "deit3_ti16",
        arguments={
            "img_size": (64, 32),
            "patch_size": 16,
            "mlp_ratio": 3.5,
            "no_embed_class": True,
            "init_values": 1e-6,
        },
    ),
    "average_no_class": vit(
        "the average, no class token, norm before it",
        arguments={"class_token": False, "global_pool": "avg", "fc_norm": False},
    ),
    "qk_norm": vit("norms of queries and keys", arguments={"qk_norm": True}),
    "no_qkv_bias": vit("no biases of queries, keys and values", arguments={"qkv_bias": False}),
    "pre_norm": vit(
        "a norm before the encoder",
        arguments={"pre_norm": True},
        refused="a norm before the blocks",
    ),
    # Folders of the hub, whose document states what does not follow from the arrays.
    "hub": hub("a folder of the hub", "vit_tiny_patch16_224", {}),
    "hub_average": hub(
        "class token, but the average of the patches",
        "vit_base_patch16_224",
        {"global_pool": "avg", "model_args": {"global_pool": "avg", "fc_norm": False}},
        arguments={"global_pool": "avg", "fc_norm": False},
    ),
    "hub_maximum": hub(
        "the maximum of the tokens",
        "vit_base_patch16_224",
        {"global_pool": "max"},
        arguments={"global_pool": "max"},
        refused="global_pool: expected token, avg, map, got 'max'",
    ),
    "hub_average_maximum": hub(
        "average and maximum of the tokens",
        "vit_base_patch16_224",
        {"global_pool": "avgmax"},
        arguments={"global_pool": "avgmax"},
        refused="global_pool: expected token, avg, map, got 'avgmax'",
    ),
    "hub_relu": hub("ReLU", "vit_base_patch16_224", {}, arguments={"act_layer": "relu"}),
    "hub_gelu_tanh": hub(
        "the tanh form of GELU", "vit_base_patch16_224", {}, arguments={"act_layer": "gelu_tanh"}
    ),
    "hub_quick_gelu": hub(
        "quick GELU",
        "vit_base_patch16_224",
        {},
        arguments={"act_layer": "quick_gelu"},
    ),
    "hub_siglip": hub(
        "SigLIP",
        "vit_base_patch16_siglip_224",
        {"global_pool": "map"},
        make=published("vit_base_patch16_siglip_224"),
        arguments={"num_classes": 0, "patch_size": 16},
    ),
    "hub_so400m": hub(
        "SigLIP So400m, whose name says the tanh form of GELU",
        "vit_so400m_patch16_siglip_256",
        {"global_pool": "map"},
        make=published("vit_so400m_patch16_siglip_256"),
        arguments={"num_classes": 0, "patch_size": 16},
    ),
    "hub_swinv2_12to16": form(
        "Swin v2, whose name says the window it was pre-trained with",
        published("swinv2_base_window12to16_192to256"),
        {**SMALL_SWIN, "depths": (2, 1, 1, 1), "num_heads": (2, 4, 4, 8), "window_size": 8},
        "swinv2_b_w8",
        swin_flags({**SMALL_SWIN, "depths": (2, 1, 1, 1), "num_heads": (2, 4, 4, 8)}),
        document=lambda model: document_of(
            model,
            "swinv2_base_window12to16_192to256",
            pretrained_cfg={"input_size": [3, 64, 64]},
        ),
    ),
    # Files of training scripts and of the models' authors.
    "pth_model": vit(
        "DeiT's `.pth`",
        "deit_ti16_distilled",
        make=published("deit_base_distilled_patch16_224"),
        arguments={"patch_size": 16},
        file="m.pth",
        wrap=lambda arrays: {"model": arrays},
    ),
    "pth_tar": vit("`.pth.tar` of timm's script", file="m.pth.tar", wrap=training("state_dict")),
    "pth_average": vit(
        "weights beside their average", file="m.pth.tar", wrap=zeros_beside, note="average"
    ),
    "pth_only_average": vit("only an average", file="m.pth", wrap=training("model_ema")),
    "pth_module": vit("`module.` before every name", file="m.pth", wrap=prefixed("module.")),
    "pth_compiled": vit(
        "`module._orig_mod.` before every name", file="m.pth", wrap=prefixed("module._orig_mod.")
    ),
    "lightning": vit("`.ckpt` of Lightning", file="m.ckpt", wrap=prefixed("model.")),
    "dinov2_authors": vit(
        "DINOv2, its authors' names",
        "dinov2_ti14",
        arguments=DINO,
        file="dinov2_vits14_pretrain.pth",
        wrap=facebook,
        note="mask_token",
    ),
    "dinov2_authors_registers": vit(
        "DINOv2 with registers, its authors' names",
        "dinov2_ti14_reg4",
        arguments={**DINO, "reg_tokens": 4, "no_embed_class": True},
        file="dinov2_vits14_reg4_pretrain.pth",
        wrap=facebook_registers,
        note="mask_token",
    ),
    "dino_authors": vit(
        "DINO's backbone",
        arguments={"num_classes": 0},
        file="dino_deitsmall8_pretrain.pth",
    ),
    "mae": vit(
        "MAE with its decoder",
        arguments={"num_classes": 0},
        file="mae_pretrain.pth",
        wrap=masked_autoencoder,
        note="decoder",
    ),
    # Swin.
    "swin_rect": swin(
        "Swin with windows of 5 for 44x76 pixels",
        "swin_t_w5",
        arguments={
            "img_size": (44, 76),
            "depths": (1, 3, 2),
            "num_heads": (1, 2, 4),
            "window_size": 5,
            "mlp_ratio": 3.0,
        },
    ),
    "swin_features": swin(
        "Swin without head, one channel",
        "swin_t_w4",
        arguments={
            "img_size": 60,
            "patch_size": 3,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "num_classes": 0,
            "in_chans": 1,
        },
    ),
    "swin_s3": swin(
        "Swin S3: a window a stage, of which the last holds all",
        "swin_t_w7",
        arguments={"img_size": 112, "window_size": (7, 7, 14)},
    ),
    "swinv2_rect": swin(
        "Swin v2 that pads",
        "swinv2_t_w6",
        version=2,
        arguments={"img_size": (52, 72), "window_size": 6},
    ),
    # Other architectures, whose arrays look like those of a ViT.
    "rope": other("vit_small_patch16_rope_224", "the scales of BEiT and EVA"),
    "rope_mixed": other("vit_small_patch16_rope_mixed_224", "rotary positions"),
    "rope_ape": other("vit_small_patch16_rope_ape_224", "the scales of BEiT and EVA"),
    "eva02": other("eva02_tiny_patch14_224", "has swiglu, the model has mlp", patch=14),
    "dinov3": other("vit_small_patch16_dinov3", "the scales of BEiT and EVA"),
    "beit": other("beit_base_patch16_224", "relative positions"),
    "beitv2": other("beitv2_base_patch16_224", "relative positions"),
    "clip": other("vit_base_patch16_clip_224", "a norm before the blocks"),
    "clip_quick": other("vit_base_patch16_clip_quickgelu_224", "a norm before the blocks"),
    "parallel": other("vit_small_patch16_18x2_224", "two branches in each block"),
    "swinv2_cr": form(
        "`swinv2_cr_tiny_224`",
        published("swinv2_cr_tiny_224"),
        {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5},
        "swinv2_t_w7",
        {},
        refused="not the weights of this model",
    ),
    "gap_no_bias": other("vit_medium_patch16_gap_256", "", series="dinov2"),
    "miil": other("vit_base_patch16_224_miil", ""),
    "rpn": other("vit_base_patch16_rpn_224", "norms may come after attention and MLP"),
    "flexivit": other("flexivit_small", "", img_size=32),
    "hybrid_r26": hybrid("vit_small_r26_s32_224", "vit_r26_s32"),
    "hybrid_r50": hybrid("vit_base_r50_s16_224", "vit_r50_b16"),
}
