"""timm's Swin that is ours: its name, its arguments, and what it computes."""

import pathlib
from typing import Any

from vit_jax.weights.documents import Json
from vit_jax.weights.folder import open_weights
from vit_jax.weights.library import Fields
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import original

# Arguments that the arrays show, for a document that leaves them out.
SIZES = (
    "patch_size",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "mlp_ratio",
    "in_chans",
    "num_classes",
)


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name."""
    given = arguments(fields, data["image_size"], data["channels"])
    num_features = fields["width"] * 2 ** (len(fields["depths"]) - 1)
    return timm_documents.write(architecture(fields), given, num_features, data, class_names)


def architecture(fields: Fields) -> str:
    """Return a model of timm that is ours with other arguments."""
    return (
        "swinv2_tiny_window8_256" if fields["attention.cosine"] else "swin_tiny_patch4_window7_224"
    )


def arguments(fields: Fields, image_size: tuple[int, int], channels: int) -> dict[str, Any]:
    """Return the arguments with which timm's model of that `architecture` is ours."""
    kwargs = {
        "img_size": list(image_size),
        "patch_size": fields["stem.patch"][0],
        "in_chans": channels,
        "embed_dim": fields["width"],
        "depths": list(fields["depths"]),
        "num_heads": list(fields["num_heads"]),
        "window_size": fields.get("attention.window", (0, 0))[0],
        "mlp_ratio": fields["mlp_ratio"],
        "num_classes": fields["num_classes"],
        "global_pool": "avg",
        "qkv_bias": fields["attention.qkv_bias"],
    }
    if fields["attention.cosine"]:
        pretrained = fields.get("posemb.pretrained_window") or (0,) * len(fields["depths"])
        kwargs["pretrained_window_sizes"] = list(pretrained)
    return kwargs


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what timm's model computes with the weights at a path.

    The model is the one that the document beside the weights names, where there is one.

    Raises:
      CheckpointError: timm does not make this model, or it does not take these weights.
    """
    file, documents = open_weights(path)
    file.close()
    own = arguments(fields, tuple(pixels.shape[2:]), pixels.shape[1])
    document = timm_documents.read(documents, "swin")
    if document is None or not document.architecture:
        return original.outputs(architecture(fields), own, path, pixels)
    shown = {key: own[key] for key in SIZES}
    given = {**shown, **document.given, "img_size": own["img_size"]}
    return original.outputs(document.architecture, given, path, pixels)
