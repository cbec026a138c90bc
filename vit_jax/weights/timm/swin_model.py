"""timm's Swin that is equivalent to one of our models: its name, arguments and outputs."""

import pathlib
from typing import Any

from vit_jax.weights.documents import Json
from vit_jax.weights.folder import open_weights
from vit_jax.weights.library import Fields
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import original

# Arguments that are taken from the arrays if a document does not state them.
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
    """Return the documents of an export, by file name."""
    given = arguments(fields, data["image_size"], data["channels"])
    num_features = fields["width"] * 2 ** (len(fields["depths"]) - 1)
    return timm_documents.write(architecture(fields), given, num_features, data, class_names)


def architecture(fields: Fields) -> str:
    """Return the name of timm's model that equals ours with the right `arguments`."""
    return (
        "swinv2_tiny_window8_256" if fields["attention.cosine"] else "swin_tiny_patch4_window7_224"
    )


def arguments(fields: Fields, image_size: tuple[int, int], channels: int) -> dict[str, Any]:
    """Return the arguments with which timm's `architecture` equals our model.

    Args:
      fields: The fields of our model, by path.
      image_size: (height, width) in pixels.
      channels: Number of image channels.
    """
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
    """Compute the outputs of timm's model with the weights at a path.

    The document beside the weights decides on the model, if there is one.

    Args:
      path: The path of the weights.
      fields: The fields of our model, by path.
      pixels: Images (b, c, h, w), a torch tensor.

    Returns:
      Logits (b, k), or features (b, d) if there are no classes; a torch tensor.

    Raises:
      CheckpointError: timm cannot build the model, or the weights do not match it.
    """
    file, documents = open_weights(path)
    file.close()
    own = arguments(fields, tuple(pixels.shape[2:]), pixels.shape[1])
    document = timm_documents.read(documents, "swin")
    if document is None or not document.architecture:
        return original.outputs(architecture(fields), own, path, pixels)
    inferred = {key: own[key] for key in SIZES}
    given = {**inferred, **document.explicit, "img_size": own["img_size"]}
    return original.outputs(document.architecture, given, path, pixels)
