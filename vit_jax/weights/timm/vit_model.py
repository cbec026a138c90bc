"""timm's ViT that is ours: its name, its arguments, and what it computes."""

import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import ConfigError, DataError
from vit_jax.weights.documents import Json
from vit_jax.weights.folder import open_weights
from vit_jax.weights.library import Fields, Params
from vit_jax.weights.timm import documents as timm_documents
from vit_jax.weights.timm import original

POOLS = {"cls": "token", "gap": "avg", "map": "map"}
# Arguments that the arrays show, for a document that leaves them out.
SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "in_chans", "num_classes")


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name.

    Raises:
      DataError: timm has no such model.
    """
    given = arguments(fields, data["image_size"], data["channels"])
    name = architecture(fields)
    return timm_documents.write(name, given, fields["width"], data, class_names)


def rewrite(fields: Fields, params: Params) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Give registers positions of zero, where only other tokens have one.

    timm gives positions to all tokens before the patches, or to none.

    Args:
      fields: Fields of our model.
      params: Its parameters, which are changed in place.

    Returns:
      The fields of the model that computes the same, and notes.
    """
    fields = dict(fields)
    prefix = params.get("posemb/prefix")
    if prefix is None or not fields["num_registers"] or fields["posemb.registers"]:
        return fields, ()
    zeros = np.zeros((fields["num_registers"], prefix.shape[1]), prefix.dtype)
    params["posemb/prefix"] = np.concatenate([prefix, zeros])
    return {**fields, "posemb.registers": True}, ()


def architecture(fields: Fields) -> str:
    """Return a model of timm that is ours with other arguments, or "" where there is none."""
    hybrids = {
        (): "vit_tiny_r_s16_p8_224",
        (2, 2, 2, 2): "vit_small_r26_s32_224",
        (3, 4, 9): "vit_base_r50_s16_224",
        (3, 4, 6, 3): "vit_large_r50_s32_224",
    }
    if fields["stem.name"] == "resnet":
        if fields["stem.width_factor"] != 1:
            return ""
        return hybrids.get(tuple(fields["stem.layers"]), "")
    if fields["distilled"]:
        return "deit_base_distilled_patch16_224"
    return "vit_giant_patch14_dinov2" if fields["mlp.name"] == "swiglu" else "vit_base_patch16_224"


def arguments(fields: Fields, image_size: tuple[int, int], channels: int) -> dict[str, Any]:
    """Return the arguments with which timm's model of that `architecture` is ours.

    Raises:
      DataError: timm has no such model.
    """
    if fields["pool.name"] not in POOLS:
        problem = f"timm has no pool {fields['pool.name']}; it cannot be written for timm"
        raise DataError(f"config.model.pool.name: {problem}")
    has_prefix = fields.get("posemb.prefix", True)
    is_swiglu = fields["mlp.name"] == "swiglu"
    hidden = 2 * fields["mlp_dim"] if is_swiglu else fields["mlp_dim"]
    kwargs = {
        "img_size": list(image_size),
        "patch_size": list(fields["stem.patch"]),
        "in_chans": channels,
        "embed_dim": fields["width"],
        "depth": fields["depth"],
        "num_heads": fields["num_heads"],
        "mlp_ratio": _ratio(hidden, fields["width"]),
        "num_classes": fields["num_classes"],
        "qk_norm": fields["attention.qk_norm"],
        "qkv_bias": fields["attention.qkv_bias"],
        "init_values": fields["block.layer_scale"] or None,
    }
    if not is_swiglu:  # else the architecture has it
        kwargs["act_layer"] = fields["mlp.activation"]
    if not fields["distilled"]:
        # In Meta's files only class tokens have positions; timm adds them to the tokens.
        of_meta = fields["num_registers"] and not fields.get("posemb.registers", False)
        return kwargs | {
            "class_token": fields["pool.name"] == "cls" or fields["keep_class_token"],
            "global_pool": POOLS[fields["pool.name"]],
            "no_embed_class": bool(not has_prefix or of_meta),
            "reg_tokens": fields["num_registers"],
            "fc_norm": fields["pool.fc_norm"],
        }
    if fields["num_registers"] or not has_prefix:
        problem = "timm has no registers, and no tokens without positions, beside it"
        raise DataError(f"config.model.distilled: {problem}; it cannot be written for timm")
    return kwargs


def _ratio(hidden: int, width: int) -> float:
    """Return a ratio of which timm makes exactly this width: it rounds towards zero."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what timm's model computes with the weights at a path.

    The model is the one that the document beside the weights names, where there is one.

    Raises:
      ConfigError: There is no such model.
      CheckpointError: It does not take these weights.
    """
    file, documents = open_weights(path)
    file.close()
    own = arguments(fields, tuple(pixels.shape[2:]), pixels.shape[1])
    name = architecture(fields)
    document = timm_documents.read(documents, "vit")
    if document and document.architecture:
        name = document.architecture
        shown = {key: own[key] for key in SIZES}
        own = {**shown, **document.given, "img_size": own["img_size"]}
    if not name:
        raise ConfigError("--check", "timm has no such hybrid")
    return original.outputs(name, own, path, pixels)
