"""Hugging Face transformers: ViT, DeiT with its teacher, DINOv2, Swin v1 and v2 (a folder).

The names are those of the files on the hub, which transformers 5 no longer has in memory.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights import swin
from vit_jax.weights.facts import HALF, IMAGENET, Facts, Json, linear, norm, num_classes, read_key
from vit_jax.weights.rules import Rule, Shape

FILE = "model.safetensors"
CONV = "o i h w -> h w i o"


def embeddings() -> Iterator[Rule]:
    """Yields the rules of patches, tokens and positions."""
    theirs = "{prefix}embeddings."
    yield from linear(theirs + "patch_embeddings.projection", "stem/proj", CONV)
    yield Rule(theirs + "cls_token", "cls_token", "1 n d -> n d")
    yield Rule(theirs + "distillation_token", "dist_token", "1 n d -> n d")
    yield Rule(theirs + "register_tokens", "registers", "1 n d -> n d")
    yield Rule(theirs + "position_embeddings", ("posemb/prefix", "posemb/grid"), "1 n d -> n d")
    yield Rule(theirs + "mask_token")  # of the pre-training


def attention() -> Iterator[Rule]:
    """Yields the rules of self-attention."""
    theirs, ours = "{prefix}encoder.layer.{i}.attention.", "blocks_{i}/attn/"
    parts = [f"{theirs}attention.{part}" for part in ("query", "key", "value")]
    weights, biases = (tuple(f"{part}.{kind}" for part in parts) for kind in ("weight", "bias"))
    yield Rule(weights, f"{ours}qkv/kernel", "s (h c) d -> d s h c")
    yield Rule(biases, f"{ours}qkv/bias", "s (h c) -> s h c")
    yield from linear(f"{theirs}output.dense", f"{ours}out", "d (h c) -> h c d")


def blocks() -> Iterator[Rule]:
    """Yields the rules of the encoder's blocks, in ViT's names and in DINOv2's."""
    theirs, ours = "{prefix}encoder.layer.{i}.", "blocks_{i}/"
    yield from norm(theirs + "{norm1}", f"{ours}norm1")
    yield from attention()
    yield from norm(theirs + "{norm2}", f"{ours}norm2")
    yield from linear(theirs + "{fc1}", f"{ours}mlp/fc1")
    yield from linear(theirs + "{fc2}", f"{ours}mlp/fc2")
    for k in "12":
        yield Rule(f"{theirs}layer_scale{k}.lambda1", f"{ours}scale{k}/scale")


RULES = (
    *embeddings(),
    *blocks(),
    *swin.huggingface_rules(),
    *norm("{prefix}layernorm", "norm"),
    *linear("{prefix}pooler.dense", "representation"),
    *linear("{head}", "head"),
    *linear("distillation_classifier", "head_dist"),
)
VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
DINOV2 = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
SWIGLU = {**DINOV2, "fc1": "mlp.weights_in", "fc2": "mlp.weights_out"}

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", "swin", "swinv2")
HEADS = {"vit": "classifier", "deit": "cls_classifier"}


def words(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Returns the names that this file uses."""
    first = "embeddings.patch_embeddings.projection.bias"
    prefixes = [f"{kind}." for kind in MODEL_TYPES if f"{kind}.{first}" in shapes]
    prefix = prefixes[0] if prefixes else ""
    block = f"{prefix}encoder.layer.0."
    kinds = {"mlp.weights_in.weight": SWIGLU, "mlp.fc1.weight": DINOV2}
    kind = next((kind for name, kind in kinds.items() if block + name in shapes), VIT)
    head = "cls_classifier" if "cls_classifier.weight" in shapes else "classifier"
    return {**kind, "prefix": prefix, "head": head}


def words_for(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns the names to write a model with."""
    kind = model_type(fields)
    dino = SWIGLU if fields["mlp"] == "swiglu" else DINOV2
    return {
        **(dino if kind.startswith("dinov2") else VIT),
        "prefix": f"{kind}." if fields["num_classes"] else "",
        "head": HEADS.get(kind, "classifier"),
    }


def model_type(fields: Mapping[str, Any]) -> str:
    """Returns what transformers calls a model of this kind."""
    if "depths" in fields:
        return "swinv2" if fields["cosine"] else "swin"
    if fields["layer_scale"]:
        return "dinov2_with_registers" if fields["num_registers"] else "dinov2"
    return "deit" if fields["distilled"] else "vit"


def class_name(fields: Mapping[str, Any]) -> str:
    """Returns the class of transformers that is a model of this kind."""
    names = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2", "swin": "Swin", "swinv2": "Swinv2"}
    kind = model_type(fields)
    name = names.get(kind, "Dinov2WithRegisters")
    if not fields["num_classes"]:
        return f"{name}Model"
    return f"{name}ForImageClassification" + "WithTeacher" * (kind == "deit")


def describe(shapes: Mapping[str, Shape], documents: Mapping[str, Json], family: str) -> Facts:
    """Returns what the folder states: its arrays, `config.json` and `preprocessor_config.json`.

    Raises:
      DataError: A document lacks something, or asks for what we do not have.
    """
    if "config.json" not in documents:
        raise DataError("config.json: no such file beside the weights; it says what the model is")
    document, where = documents["config.json"], "config.json"
    kind = read_key(document, "model_type", str, where)
    prefix, head = (words(shapes)[key] for key in ("prefix", "head"))
    classes = num_classes(shapes, f"{head}.bias")
    dino = kind.startswith("dinov2")
    if kind not in MODEL_TYPES:
        raise DataError(f"{where}: model_type: expected vit, deit, dinov2 or swin, got '{kind}'")
    activation = read_key(document, "hidden_act", str, where)
    swiglu = dino and document.get("use_swiglu_ffn") is True
    if activation not in ACTIVATIONS and not swiglu:
        known = ", ".join(ACTIVATIONS)
        raise DataError(f"{where}: hidden_act: expected one of {known}, got '{activation}'")
    registers = kind == "dinov2_with_registers"
    data, notes = _preprocessing(documents.get("preprocessor_config.json"), family)
    data["image_size"] = _image_size(document, where)
    names = _class_names(document, classes)
    shared = {
        "num_classes": classes,
        "activation": ACTIVATIONS.get(activation, "gelu"),
        "norm_eps": float(read_key(document, "layer_norm_eps", float | int, where)),
    }
    if kind in ("swin", "swinv2"):
        fields, own_sizes = swin.describe_huggingface(shapes, document, where)
        return Facts({**fields, **shared}, own_sizes, data=data, class_names=names, notes=notes)
    sizes = {"num_heads": read_key(document, "num_attention_heads", int, where)}
    return Facts(
        fields={
            **shared,
            "norm_order": "pre",
            "representation_size": num_classes(shapes, f"{prefix}pooler.dense.bias"),
            "pool": "cls_gap" if dino and classes else "cls",
            "keep_class_token": False,
            "fc_norm": False,
            "posemb": "learned",
            "posemb_prefix": True,
            "posemb_interpolation": "bicubic" if registers else "bicubic_torch",
            "posemb_antialias": registers,
        },
        sizes={**sizes, "mlp": "swiglu" if swiglu else "mlp", "stem": "patch"},
        positions=shapes.get(f"{prefix}embeddings.position_embeddings", (0, 0))[1],
        num_tokens=1 + (kind == "deit"),
        data=data,
        class_names=names,
        notes=notes,
    )


def documents_for(
    fields: Mapping[str, Any], data: Mapping[str, Any], class_names: tuple[str, ...]
) -> dict[str, Json]:
    """Returns the documents to write beside the weights of a model."""
    kind, classes = model_type(fields), fields["num_classes"]
    activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    height, width = data["image_size"]
    labels = class_names or [f"LABEL_{i}" for i in range(classes)]
    document = {
        "architectures": [class_name(fields)],
        "model_type": kind,
        "hidden_act": activations[fields["activation"]],
        "layer_norm_eps": fields["norm_eps"],
        "image_size": height if height == width else [height, width],
        "patch_size": fields["patch"][0],
        "num_channels": data["channels"],
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if kind in ("swin", "swinv2"):
        document |= swin.huggingface_document(fields)
        return {"config.json": document, "preprocessor_config.json": _processor(data)}
    document |= {
        "hidden_size": fields["width"],
        "num_hidden_layers": fields["depth"],
        "num_attention_heads": fields["num_heads"],
    }
    if kind.startswith("dinov2"):
        swiglu = fields["mlp"] == "swiglu"
        document |= {
            "mlp_ratio": _mlp_ratio(fields["mlp_dim"], fields["width"], swiglu),
            "use_swiglu_ffn": swiglu,
            "use_mask_token": False,
        }
        if fields["num_registers"]:
            document["num_register_tokens"] = fields["num_registers"]
    else:
        document["intermediate_size"] = fields["mlp_dim"]
        if fields["representation_size"]:
            document |= {"pooler_output_size": fields["representation_size"], "pooler_act": "tanh"}
    return {"config.json": document, "preprocessor_config.json": _processor(data)}


def _mlp_ratio(mlp_dim: int, width: int, swiglu: bool) -> int:
    """Returns the number from which transformers computes the size of the feed-forward network."""
    for ratio in (4, round(mlp_dim / width), round(mlp_dim * 1.5 / width)):
        hidden = (width * ratio * 2 // 3 + 7) // 8 * 8 if swiglu else width * ratio
        if hidden == mlp_dim:
            return ratio
    raise DataError(
        f"config.model.mlp_dim: no mlp_ratio of transformers makes {mlp_dim} of {width}"
    )


def _image_size(document: Json, where: str) -> tuple[int, int]:
    size = read_key(document, "image_size", int | list, where)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{where}: image_size: expected one or two sizes, got {size!r:.60}")
    return sides[0], sides[1]


def _class_names(document: Json, classes: int) -> tuple[str, ...]:
    labels = document.get("id2label")
    if not isinstance(labels, Mapping) or set(labels) != {str(i) for i in range(classes)}:
        return ()
    names = tuple(str(labels[str(i)]) for i in range(classes))
    made_up = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return names if len(set(names)) == classes and not made_up else ()


def _preprocessing(document: Json | None, family: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the fields of the data section, and what about them is only close."""
    where = "preprocessor_config.json"
    if document is None:
        values: dict[str, Any] = {"fit": "squash", "interpolation": "bilinear", **HALF}
        if family.startswith("swin"):
            values = {"fit": "squash", "interpolation": "bicubic", **IMAGENET}
        elif family in ("deit", "dinov2"):
            values = {"crop_fraction": 0.875, "interpolation": "bicubic", **IMAGENET}
        return values, (f"no {where} beside the weights: the usual preprocessing of {family}",)
    factor = document.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float | int) or abs(factor * 255 - 1) > 1e-6:
        raise DataError(f"{where}: rescale_factor: expected 1/255, got {factor!r:.40}")
    values = {}
    if document.get("do_normalize", True):
        for key in ("mean", "std"):
            numbers = read_key(document, f"image_{key}", list, where)
            values[key] = tuple(float(number) for number in numbers)
    else:
        values |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    resample = document.get("resample", 2)
    if resample not in RESAMPLE:
        known = ", ".join(map(str, RESAMPLE))
        raise DataError(f"{where}: resample: expected one of {known}, got {resample!r:.40}")
    values["interpolation"] = RESAMPLE[resample]
    short, crop = _side(document.get("size")), _side(document.get("crop_size"))
    if not document.get("do_center_crop") or not (short and crop):
        return {**values, "fit": "squash"}, ()
    values |= {"fit": "crop", "crop_fraction": min(1.0, crop / short)}
    square = isinstance(document.get("size"), Mapping) and "shortest_edge" not in document["size"]
    note = f"{where}: its processor squashes images that are not square before the crop; here not"
    return values, (note,) * square


def _side(size: Any) -> int:
    """Returns the shorter side of a processor's size, which comes in three forms; 0 is none."""
    if isinstance(size, Mapping):
        sides = [size[key] for key in ("shortest_edge", "height", "width") if key in size]
        size = min((side for side in sides if isinstance(side, int)), default=0)
    return size if isinstance(size, int) else 0


def _processor(data: Mapping[str, Any]) -> Json:
    height, width = data["image_size"]
    numbers = {name: number for number, name in RESAMPLE.items()}
    document: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
        "do_resize": True,
        "resample": numbers[data["interpolation"]],
    }
    size = {"height": height, "width": width}
    if data["fit"] == "squash":
        return {**document, "image_processor_type": "ViTImageProcessor", "size": size}
    short = round(min(height, width) / data["crop_fraction"])
    kind = {"image_processor_type": "BitImageProcessor", "do_center_crop": True}
    return {**document, **kind, "size": {"shortest_edge": short}, "crop_size": size}
