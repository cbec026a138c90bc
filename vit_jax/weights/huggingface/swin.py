"""Swin v1 and v2 of transformers."""

import pathlib
from collections.abc import Iterator
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights import swin
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.huggingface import documents as hf_documents
from vit_jax.weights.huggingface import original, preprocessing
from vit_jax.weights.huggingface.documents import CONFIG
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
    Rule("{prefix}embeddings.mask_token"),  # of the pre-training
    *norm("{prefix}embeddings.norm", "stem_norm"),
    *blocks(),
    *swin.merge("{prefix}encoder.layers.{i}.downsample"),
    *norm("{prefix}layernorm", "norm"),
    *linear("classifier", "head"),
)

CLASSES = {"swin": "Swin", "swinv2": "Swinv2"}  # by model type
# What the published models are used with, by what names of ours begin with.
USUAL: dict[str, Fields] = {
    "swin": {"fit": "squash", "interpolation": "bicubic", **IMAGENET},
    "swinv2": {"fit": "squash", "interpolation": "bicubic", **IMAGENET},
}


def placeholders(shapes: Shapes) -> dict[str, str]:
    """Return the names that a file uses, from the shapes of its arrays."""
    return {"prefix": hf_documents.find_prefix(shapes, tuple(CLASSES))}


def placeholders_for(fields: Fields) -> dict[str, str]:
    """Return the names with which to write a model, from its fields."""
    return {"prefix": f"{find_model_type(fields)}." if fields["num_classes"] else ""}


def find_model_type(fields: Fields) -> str:
    """Return the `model_type` of transformers for a model with these fields."""
    return "swinv2" if fields["attention.cosine"] else "swin"


def class_name(fields: Fields) -> str:
    """Return the class of transformers for a model with these fields."""
    return original.class_name(CLASSES[find_model_type(fields)], fields)


def describe(shapes: Shapes, documents: Documents, series: str) -> ImportSpec:
    """Return what a folder states: its arrays, `config.json` and `preprocessor_config.json`.

    Raises:
      DataError: A document is incomplete, or describes a model that we do not have.
    """
    document, model_type = hf_documents.open_config(documents, tuple(CLASSES))
    data, notes = preprocessing.read(documents, USUAL, series)
    num_classes = num_outputs(shapes, "classifier.bias")
    fields = {**swin.FIELDS, "attention.pad_order": "pad_shift"}
    if model_type == "swin":
        fields |= swin.V1
    else:
        pretrained = swin.window_sides(document.get("pretrained_window_sizes"))
        fields |= {**swin.V2, "posemb.pretrained_window": pretrained}
    return ImportSpec(
        fields={**fields, **hf_documents.read_numerics(document), "num_classes": num_classes},
        sizes=_read_sizes(document),
        data={**data, "image_size": hf_documents.read_image_size(document)},
        class_names=hf_documents.read_class_names(document, num_classes),
        notes=notes,
    )


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name."""
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
    return {CONFIG: document, preprocessing.FILE: preprocessing.write(data)}


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what the model of transformers computes with the weights at a path."""
    return original.outputs(class_name(fields), path, fields, pixels)


def _read_sizes(document: Json) -> dict[str, Any]:
    if document.get("use_absolute_embeddings"):
        problem = "use_absolute_embeddings: expected false; there is no such Swin"
        raise DataError(f"{CONFIG}: {problem}")
    window = read_key(document, "window_size", int, CONFIG)
    return {
        "width": read_key(document, "embed_dim", int, CONFIG),
        "depths": tuple(read_key(document, "depths", list, CONFIG)),
        "num_heads": tuple(read_key(document, "num_heads", list, CONFIG)),
        "mlp_ratio": float(read_key(document, "mlp_ratio", float | int, CONFIG)),
        "attention.window": (window, window),
    }


SWIN = Library(
    rules=RULES,
    file="model.safetensors",
    placeholders=placeholders,
    placeholders_for=placeholders_for,
    describe=describe,
    documents_for=documents_for,
    original=Original("transformers", outputs),
)
