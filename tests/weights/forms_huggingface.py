"""Forms of Hugging Face's weights: every supported model, and others that resemble them."""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from forms import Form, Saved, channel_flags, outputs_of, random_images, randomize

Config = Mapping[str, Any]

VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 100,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
}
DINOV2 = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 70,
    "patch_size": 14,
    "num_labels": 6,
}
SWIN = {
    "image_size": 60,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}
CLASSIFIER = "ForImageClassification"
NONE: Config = MappingProxyType({})


def save_as_torch(model: Any, folder: pathlib.Path) -> None:
    """Save a model as transformers did before safetensors, beside files of its Trainer."""
    import torch

    arrays = pop_arrays(model, folder)
    torch.save(arrays, folder / "pytorch_model.bin")
    torch.save({"state": {}}, folder / "optimizer.pt")
    torch.save(object(), folder / "training_args.bin")


def save_as_shards(model: Any, folder: pathlib.Path) -> None:
    """Save a model in two torch files and an index."""
    import torch

    arrays = pop_arrays(model, folder)
    names = sorted(arrays)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    where = {}
    for i, half in enumerate(halves, 1):
        file = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: arrays[name] for name in half}, folder / file)
        where |= dict.fromkeys(half, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def pop_arrays(model: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Save a model, and move its arrays from the folder to memory."""
    import safetensors.torch

    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    arrays = safetensors.torch.load_file(path)
    path.unlink()
    return arrays


def save_in_safetensors_shards(model: Any, folder: pathlib.Path) -> None:
    """Save a model in several files and an index, as large ones are."""
    model.save_pretrained(folder, max_shard_size="90KB")


def save_half(model: Any, folder: pathlib.Path) -> None:
    """Save a model in float16."""
    model.half().save_pretrained(folder)
    model.float()


def save_plain(model: Any, folder: pathlib.Path) -> None:
    """Save a model."""
    model.save_pretrained(folder)


def save(
    folder: pathlib.Path,
    text: str,
    *,
    model_class: str,
    config: Config,
    output: str,
    size: tuple[int, int] | None,
    arguments: Mapping[str, Any],
    write: Callable[[Any, pathlib.Path], None],
    processor: Mapping[str, Any],
    name: str,
) -> Saved:
    """Build a model, write it and compute its outputs."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cls = getattr(transformers, model_class)
    model = randomize(cls(cls.config_class(**config)), text)
    write(model, folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    sides = size or config["image_size"]
    height, width = (sides, sides) if isinstance(sides, int) else sides
    channels = config.get("num_channels", 3)
    images = random_images(text, channels, (height, width))

    def forward(pixels: Any) -> Any:
        found = getattr(model(pixels, **arguments), output)
        return found[-1] if isinstance(found, tuple) else found

    outputs, rounding = outputs_of(forward, model, images)
    flags = channel_flags(channels)
    return Saved(folder, images, outputs, rounding, output == "logits", name, flags)


def form(
    text: str,
    model_class: str,
    config: Config,
    *,
    output: str = "",
    size: tuple[int, int] | None = None,
    arguments: Mapping[str, Any] | None = None,
    write: Callable[[Any, pathlib.Path], None] = save_plain,
    processor: Mapping[str, Any] | None = None,
    name: str = "",
    refused: str = "",
    note: str = "",
    comes_back: bool = True,
) -> Form:
    """Return a form; see `save` and `Form`."""
    has_head = model_class.endswith((CLASSIFIER, "WithTeacher"))
    saving = functools.partial(
        save,
        text=text,
        model_class=model_class,
        config=config,
        output=output or ("logits" if has_head else "pooler_output"),
        size=size,
        arguments=arguments or {},
        write=write,
        processor=processor or {},
        name=name,
    )
    return Form(text, saving, refused, note, comes_back)


def vit(text: str, task: str = CLASSIFIER, config: Config = NONE, **settings: Any) -> Form:
    """Return a form of a ViT."""
    return form(text, f"ViT{task}", {**VIT, **config}, **settings)


def deit(text: str, task: str, config: Config = NONE, **settings: Any) -> Form:
    """Return a form of a DeiT."""
    return form(text, f"DeiT{task}", {**VIT, **config}, **settings)


def dinov2(text: str, task: str, config: Config = NONE, **settings: Any) -> Form:
    """Return a form of a DINOv2, with registers or without."""
    return form(text, f"Dinov2{task}", {**DINOV2, **config}, **settings)


def swin(
    text: str, model: str = f"Swin{CLASSIFIER}", config: Config = NONE, **settings: Any
) -> Form:
    """Return a form of a Swin v1 or v2."""
    return form(text, model, {**SWIN, **config}, **settings)


def other(
    model_class: str, model_type: str, output: str = "pooler_output", config: Config = NONE
) -> Form:
    """Return a form of a model that is not supported."""
    given = {**VIT, "intermediate_size": 96, **config}
    refused = f"swin or swinv2, got '{model_type}'"
    return form(f"`{model_class}`", model_class, given, output=output, refused=refused)


FORMS: dict[str, Form] = {
    "vit_half": vit("float16", write=save_half),
    "vit_shards": vit("several files and an index", write=save_in_safetensors_shards),
    "vit_trainer": vit("`pytorch_model.bin` in the folder of a Trainer", write=save_as_torch),
    "vit_torch_shards": vit("several `.bin` and an index", write=save_as_shards),
    "vit_pooler": vit("the pooler", "Model"),
    "vit_pooler_relu": vit("a pooler with ReLU", "Model", {"pooler_act": "relu"}),
    "vit_grey_rect": vit(
        "one channel, 32x48 pixels",
        config={
            "image_size": (32, 48),
            "num_channels": 1,
        },
    ),
    "vit_patch_rect": vit(
        "patches of 8x12", config={"image_size": (32, 48), "patch_size": (8, 12)}
    ),
    "vit_other_size": vit(
        "at another size, positions resampled",
        size=(56, 40),
        arguments={"interpolate_pos_encoding": True},
    ),
    "vit_numerics": vit(
        "an epsilon of 1e-3, the tanh form of GELU",
        config={"layer_norm_eps": 1e-3, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "vit_no_bias": vit("no biases of queries, keys and values", config={"qkv_bias": False}),
    "vit_quick_gelu": vit("quick GELU", config={"hidden_act": "quick_gelu"}),
    "vit_multi_label": vit(
        "several labels an image", config={"problem_type": "multi_label_classification"}
    ),
    "vit_one_label": vit("one label", config={"num_labels": 1}),
    "vit_regression": vit(
        "a regression",
        config={"problem_type": "regression"},
        refused="problem_type: expected single_label_classification or multi_label_classification",
    ),
    "vit_not_rescaled": vit(
        "pixels from 0 to 255",
        processor={
            "do_resize": True,
            "size": {"height": 32, "width": 32},
            "resample": 2,
            "do_rescale": False,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    ),
    "deit_teacher": deit("DeiT with its teacher's head", f"{CLASSIFIER}WithTeacher"),
    "deit_one_head": deit("DeiT without its teacher's head", CLASSIFIER),
    "dinov2": dinov2("DINOv2 at another size", "Model", size=(98, 56)),
    "dinov2_ratio": dinov2(
        "DINOv2 with a head, an MLP of three widths, an epsilon of 1e-4",
        CLASSIFIER,
        {"mlp_ratio": 3, "layer_norm_eps": 1e-4},
    ),
    "dinov2_registers": dinov2(
        "DINOv2 with five registers and a head",
        f"WithRegisters{CLASSIFIER}",
        {"num_register_tokens": 5},
    ),
    "dinov2_registers_size": dinov2(
        "DINOv2 with registers at another size", "WithRegistersModel", size=(98, 56)
    ),
    "dinov2_swiglu": dinov2(
        "DINOv2 with SwiGLU and two registers",
        "WithRegistersModel",
        {"use_swiglu_ffn": True, "num_register_tokens": 2},
    ),
    "swin_odd": swin(
        "Swin with odd depths",
        config={"depths": [1, 3], "num_heads": [1, 2], "mlp_ratio": 2.0},
    ),
    "swin_features": swin("Swin without head, one channel", "SwinModel", {"num_channels": 1}),
    "swin_rect": swin(
        "Swin for 40x72 pixels: one side fits into the window",
        config={"image_size": (40, 72), "window_size": 5},
    ),
    "swin_no_bias": swin(
        "Swin without biases of queries, keys and values", config={"qkv_bias": False}
    ),
    "swin_positions": swin(
        "Swin with absolute positions",
        config={"use_absolute_embeddings": True},
        refused="use_absolute_embeddings: expected false",
    ),
    "swinv2": swin(
        "Swin v2 that pads, pre-trained with other windows",
        f"Swinv2{CLASSIFIER}",
        {"image_size": 52, "window_size": 5, "pretrained_window_sizes": [8, 4]},
    ),
    "swin_backbone": swin(
        "`SwinBackbone`",
        "SwinBackbone",
        {"out_features": ["stage1", "stage2"]},
        output="feature_maps",
        refused="got 'SwinBackbone'",
    ),
    "beit": other(f"Beit{CLASSIFIER}", "beit", "logits", {"use_relative_position_bias": True}),
    "data2vec": other(f"Data2VecVision{CLASSIFIER}", "data2vec-vision", "logits"),
    "vit_mae": other("ViTMAEModel", "vit_mae", "last_hidden_state", {"mask_ratio": 0.0}),
    "vit_msn": other(f"ViTMSN{CLASSIFIER}", "vit_msn", "logits"),
    "dinov3": other("DINOv3ViTModel", "dinov3_vit"),
    "clip": other("CLIPVisionModel", "clip_vision_model"),
    "siglip": other("SiglipVisionModel", "siglip_vision_model"),
    "ijepa": other("IJepaModel", "ijepa", "last_hidden_state"),
    "yolos": other("YolosModel", "yolos", config={"image_size": [32, 32]}),
}
