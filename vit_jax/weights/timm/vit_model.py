"""timm's ViT that is equivalent to one of our models: its name, arguments and outputs."""

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
# Arguments that are taken from the arrays if a document does not state them.
SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "in_chans", "num_classes")


def documents_for(fields: Fields, data: Fields, class_names: tuple[str, ...]) -> dict[str, Json]:
    """Return the documents of an export, by file name.

    Raises:
      DataError: timm has no such model.
    """
    given = arguments(fields, data["image_size"], data["channels"])
    name = architecture(fields)
    return timm_documents.write(name, given, fields["width"], data, class_names)


def rewrite(fields: Fields, params: Params) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Give the registers position embeddings of zero if only the other prefix tokens have some.

    In timm either all prefix tokens have position embeddings or none.

    Args:
      fields: The fields of our model, by path.
      params: The parameters of our model, which are changed in place.

    Returns:
      The fields of the equivalent model, and notes.
    """
    fields = dict(fields)
    prefix = params.get("posemb/prefix")
    if prefix is None or not fields["num_registers"] or fields["posemb.registers"]:
        return fields, ()
    zeros = np.zeros((fields["num_registers"], prefix.shape[1]), prefix.dtype)
    params["posemb/prefix"] = np.concatenate([prefix, zeros])
    return {**fields, "posemb.registers": True}, ()


def architecture(fields: Fields) -> str:
    """Return the name of timm's model that equals ours with the right `arguments`.

    The name is empty if timm has no such hybrid.
    """
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
    """Return the arguments with which timm's `architecture` equals our model.

    Args:
      fields: The fields of our model, by path.
      image_size: (height, width) in pixels.
      channels: Number of image channels.

    Raises:
      DataError: timm has no such model.
    """
    if fields["pool.name"] not in POOLS:
        problem = f"timm has no pool {fields['pool.name']}; it cannot be exported to timm"
        raise DataError(f"config.model.pool.name: {problem}")
    has_prefix = fields.get("posemb.prefix", True)
    is_swiglu = fields["mlp.name"] == "swiglu"
    hidden_size = 2 * fields["mlp_dim"] if is_swiglu else fields["mlp_dim"]
    kwargs = {
        "img_size": list(image_size),
        "patch_size": list(fields["stem.patch"]),
        "in_chans": channels,
        "embed_dim": fields["width"],
        "depth": fields["depth"],
        "num_heads": fields["num_heads"],
        "mlp_ratio": _ratio(hidden_size, fields["width"]),
        "num_classes": fields["num_classes"],
        "qk_norm": fields["attention.qk_norm"],
        "qkv_bias": fields["attention.qkv_bias"],
        "init_values": fields["block.layer_scale"] or None,
    }
    if not is_swiglu:  # otherwise the architecture implies it
        kwargs["act_layer"] = fields["mlp.activation"]
    if not fields["distilled"]:
        # In Meta's files only the class token has a position embedding. timm adds it to the token.
        is_meta_layout = fields["num_registers"] and not fields.get("posemb.registers", False)
        return kwargs | {
            "class_token": fields["pool.name"] == "cls" or fields["keep_class_token"],
            "global_pool": POOLS[fields["pool.name"]],
            "no_embed_class": bool(not has_prefix or is_meta_layout),
            "reg_tokens": fields["num_registers"],
            "fc_norm": fields["pool.fc_norm"],
        }
    if fields["num_registers"] or not has_prefix:
        problem = "timm's DeiT has no registers, and all of its tokens have position embeddings"
        raise DataError(f"config.model.distilled: {problem}; it cannot be exported to timm")
    return kwargs


def _ratio(hidden_size: int, width: int) -> float:
    """Return a ratio from which timm computes exactly this hidden size. timm rounds down."""
    ratio = hidden_size / width
    return ratio if int(width * ratio) == hidden_size else (hidden_size + 0.5) / width


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
      ConfigError: timm has no such model.
      CheckpointError: timm cannot build the model, or the weights do not match it.
    """
    file, documents = open_weights(path)
    file.close()
    own = arguments(fields, tuple(pixels.shape[2:]), pixels.shape[1])
    name = architecture(fields)
    document = timm_documents.read(documents, "vit")
    if document and document.architecture:
        name = document.architecture
        inferred = {key: own[key] for key in SIZES}
        own = {**inferred, **document.explicit, "img_size": own["img_size"]}
    if not name:
        raise ConfigError("--check", "timm has no such hybrid")
    return original.outputs(name, own, path, pixels)
