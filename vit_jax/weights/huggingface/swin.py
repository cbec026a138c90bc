"""Swin v1 and v2 of transformers."""

from collections.abc import Iterator
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights import swin
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.huggingface import documents as hf_documents
from vit_jax.weights.huggingface import original, preprocessing
from vit_jax.weights.huggingface.classes import check_count, find_head, read_loss, read_names
from vit_jax.weights.huggingface.documents import format_size
from vit_jax.weights.huggingface.keys import CONFIG
from vit_jax.weights.huggingface.naming import name_swin
from vit_jax.weights.import_spec import IMAGENET, ImportSpec, num_outputs
from vit_jax.weights.library import Documents, Fields, Library, Original, Shapes
from vit_jax.weights.rule_builders import CONV, linear, norm
from vit_jax.weights.rules import Rule


def blocks() -> Iterator[Rule]:
    """Yield the rules of the stages' blocks."""
    theirs = "{prefix}encoder.layers.{i}.blocks.{j}."
    ours = "stages_{i}_{j}/"
    yield from norm(f"{theirs}layernorm_before", f"{ours}norm1")
    layers = [f"{theirs}attention.self.{name}" for name in ("query", "key", "value")]
    weights = tuple(f"{layer}.weight" for layer in layers)
    biases = tuple(f"{layer}.bias" for layer in layers)
    yield Rule(weights, f"{ours}attn/qkv/kernel", "s (h c) d -> d s h c")
    yield Rule(biases, f"{ours}attn/qkv/bias", "s (h c) -> s h c")
    yield Rule(biases[::2], f"{ours}attn/qkv/bias_qv", "s (h c) -> s h c")
    network = "continuous_position_bias_mlp"
    yield from swin.bias(f"{theirs}attention.self.", f"{ours}attn/", network)
    yield from linear(f"{theirs}attention.output.dense", f"{ours}attn/out", "d (h c) -> h c d")
    yield from norm(f"{theirs}layernorm_after", f"{ours}norm2")
    yield from linear(f"{theirs}intermediate.dense", f"{ours}mlp/fc1")
    yield from linear(f"{theirs}output.dense", f"{ours}mlp/fc2")


RULES: tuple[Rule, ...] = (
    *linear("{prefix}embeddings.patch_embeddings.projection", "stem/proj", CONV),
    Rule("{prefix}embeddings.mask_token"),  # pre-training
    *norm("{prefix}embeddings.norm", "stem_norm"),
    *blocks(),
    *swin.merge("{prefix}encoder.layers.{i}.downsample"),
    *norm("{prefix}layernorm", "norm"),
    *linear("classifier", "head"),
    *(Rule(f"decoder.0.{name}") for name in ("weight", "bias")),  # pre-training
)

CLASSES = {"swin": "Swin", "swinv2": "Swinv2"}  # by model type
LIMITS = {"swin": "shorter", "swinv2": "height"}  # `attention.limit`, by model type
MERGE_EPS = 1e-5  # epsilon of the norms after the stem and in merging, whatever a document states
# The preprocessing of the published models, for weights without a document, by series.
USUAL_PREPROCESSING: dict[str, Fields] = {
    "swin": {"fit": "squash", "interpolation": "bicubic", **IMAGENET},
    "swinv2": {"fit": "squash", "interpolation": "bicubic", **IMAGENET},
}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the placeholders of a file, from the names of its arrays."""
    return {"prefix": hf_documents.find_prefix(shapes, tuple(CLASSES))}


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the placeholders of an export, from the fields of the model."""
    return {"prefix": f"{find_model_type(fields)}." if fields["num_classes"] else ""}


def find_model_type(fields: Fields) -> str:
    """Return the `model_type` of transformers for a model with these fields."""
    return "swinv2" if fields["attention.cosine"] else "swin"


def class_name(fields: Fields) -> str:
    """Return the name of transformers' class for a model with these fields."""
    return original.class_name(CLASSES[find_model_type(fields)], fields)


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Describe a Swin from its arrays, `config.json` and `preprocessor_config.json`.

    Raises:
      DataError: A document is incomplete, or describes a model that we do not have.
    """
    document, model_type, notes = hf_documents.open_config(documents, tuple(CLASSES))
    prefix = placeholders(shapes)["prefix"]
    head = find_head(document, _architectures(model_type), shapes)
    num_classes = num_outputs(shapes, f"{head}.bias") if head else 0
    check_count(document, num_classes)
    class_names, names_notes = read_names(document, num_classes)
    objective, loss_notes = read_loss(document, num_classes)
    channels = hf_documents.read_channels(document, shapes, prefix)
    images = preprocessing.read(documents, USUAL_PREPROCESSING, series, "ViT", channels)
    size = images.size or hf_documents.read_sides(document, "image_size")
    check_windows(document, model_type, size)
    return ImportSpec(
        fields={**_fields(document, shapes, model_type), "num_classes": num_classes},
        sizes=_read_sizes(document),
        data={**images.data, "image_size": size, "channels": channels},
        objective=objective,
        class_names=class_names,
        notes=(*notes, *images.notes, *names_notes, *loss_notes),
    )


def infer(shapes: Shapes, documents: Documents) -> dict[str, Any]:
    """Infer our Swin from the `config.json` of a folder.

    Returns:
      The name of our model and its fields; empty for another family.

    Raises:
      DataError: The folder has no `config.json`, or one of a model that we do not have.
    """
    if not hf_documents.has_model_type(documents, CLASSES):
        return {}
    document, model_type, _ = hf_documents.open_config(documents, tuple(CLASSES))
    sizes = _read_sizes(document)
    window, _ = sizes["attention.window"]
    return {"name": name_swin(model_type, sizes["width"], sizes["depths"], window), **sizes}


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents of an export, by file name.

    Raises:
      DataError: transformers computes other windows for images of this size.
    """
    stages = len(fields["depths"])
    model_type = find_model_type(fields)
    document = hf_documents.write(model_type, class_name(fields), fields, data, class_names)
    document |= {
        "embed_dim": fields["width"],
        "hidden_size": fields["width"] * 2 ** (stages - 1),
        "depths": list(fields["depths"]),
        "num_layers": stages,
        "num_heads": list(fields["num_heads"]),
        "window_size": fields.get("attention.window", (0, 0))[0],
        "mlp_ratio": fields["mlp_ratio"],
        "use_absolute_embeddings": False,
    }
    if fields["attention.cosine"]:
        document["pretrained_window_sizes"] = list(
            fields.get("posemb.pretrained_window") or (0,) * stages
        )
    check_windows(document, model_type, tuple(data["image_size"]))
    return {CONFIG: document, preprocessing.FILE: preprocessing.write(data)}


def _architectures(model_type: str) -> dict[str, str]:
    """Return the supported classes of transformers, and the name of the head of each."""
    name = CLASSES[model_type]
    heads = {"Model": "", "ForImageClassification": "classifier", "ForMaskedImageModeling": ""}
    return {f"{name}{task}": head for task, head in heads.items()}


def _fields(document: Json, shapes: Shapes, model_type: str) -> dict[str, Any]:
    eps = hf_documents.read_number(document, "layer_norm_eps")
    fields = {
        **swin.FIELDS,
        "attention.pad_order": "pad_shift",
        "attention.limit": LIMITS[model_type],
        "attention.qkv_bias": hf_documents.read_bias(document, shapes),
        "mlp.activation": hf_documents.read_activation(document, "hidden_act"),
        "norm_eps": eps,
        "merge_eps": 0.0 if eps == MERGE_EPS else MERGE_EPS,
    }
    if model_type == "swin":
        return {**fields, **swin.V1}
    pretrained = swin.window_sides(document.get("pretrained_window_sizes"))
    return {**fields, **swin.V2, "posemb.pretrained_window": pretrained}


def _read_sizes(document: Json) -> dict[str, Any]:
    if document.get("use_absolute_embeddings"):
        problem = "use_absolute_embeddings: expected false; true is not supported"
        raise DataError(f"{CONFIG}: {problem}")
    window = read_key(document, "window_size", int, CONFIG)
    return {
        "width": read_key(document, "embed_dim", int, CONFIG),
        "depths": _read_stages(document, "depths"),
        "num_heads": _read_stages(document, "num_heads"),
        "mlp_ratio": hf_documents.read_number(document, "mlp_ratio"),
        "stem.patch": hf_documents.read_sides(document, "patch_size"),
        "attention.window": (window, window),
    }


def _read_stages(document: Json, key: str) -> tuple[int, ...]:
    numbers = read_key(document, key, list, CONFIG)
    if not all(type(number) is int and number > 0 for number in numbers):
        raise DataError(f"{CONFIG}: {key}: expected one number per stage, got {numbers!r:.60}")
    return tuple(numbers)


def check_windows(document: Json, model_type: str, size: tuple[int, int]) -> None:
    """Check that transformers computes with the same windows as our Swin, for an image size.

    Its v1 fails if a side of the grid is smaller than the window. Its v2 fits the windows to the
    grid of the config's image size, rounded down from stage to stage, whatever the images are.

    Args:
      document: The `config.json`.
      model_type: swin or swinv2.
      size: Image size (height, width) in pixels.

    Raises:
      DataError: transformers uses other windows, or fails.
    """
    window = read_key(document, "window_size", int, CONFIG)
    stated = hf_documents.read_sides(document, "image_size")
    patch = hf_documents.read_sides(document, "patch_size")
    grid = [-(-n // p) for n, p in zip(size, patch, strict=True)]
    rounded = stated[0] // patch[0]
    for stage in range(len(read_key(document, "depths", list, CONFIG))):
        if model_type == "swin" and min(grid) < window:
            problem = f"expected at most the {min(grid)} tokens of a side in stage {stage}"
            hint = f"for images of {format_size(size)}, on which transformers fails"
            raise DataError(f"{CONFIG}: window_size: {problem} {hint}, got {window}")
        fitted = (min(rounded, window), rounded <= window)
        if model_type == "swinv2" and fitted != (min(grid[0], window), grid[0] <= window):
            problem = f"transformers counts {rounded} rows of tokens in stage {stage}"
            hint = f"images of {format_size(size)} have {grid[0]}"
            reason = f"windows of {window} would differ"
            raise DataError(f"{CONFIG}: image_size: {problem}, {hint}; {reason}")
        grid = [-(-n // 2) for n in grid]
        rounded //= 2


SWIN = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
    infer=infer,
    original=Original("transformers", original.outputs, original.pixels),
)
