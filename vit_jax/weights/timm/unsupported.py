"""Recognize models that we do not have by their arrays, although these look like a ViT's."""

import re

from vit_jax.errors import DataError
from vit_jax.weights.library import Shapes

# Patterns of array names, and what such a model has.
UNSUPPORTED_ARRAYS: tuple[tuple[str, str], ...] = (
    (r"norm_pre\.weight", "a norm before the blocks, as in CLIP"),
    (r"rope\..*", "rotary positions"),
    (r"blocks\.0\.attn\.relative_position_bias_table", "relative positions, as in BEiT"),
    (r"rel_pos_bias\..*", "relative positions, as in BEiT"),
    (r"blocks\.0\.gamma_1", "the scales of BEiT and EVA, whose blocks differ"),
    (r"blocks\.0\.attns\..*", "two branches in each block"),
    (r"blocks\.0\.(in_proj|mlp_out_proj)\.weight", "attention and MLP in parallel"),
    (r"blocks\.0\.attn\.lambda_\w+", "differential attention"),
    (r"blocks\.0\.(attn|mlp)\.norm\.(weight|bias)", "norms inside attention and MLP"),
    (r"blocks\.0\.mlp\.(fc1_g|w1)\.weight", "a gated MLP of three matrices"),
    (r"pre_logits\.fc\.weight", "a layer before the head, which timm has removed"),
    (r"layers\.0\.blocks\.0\.attn\.meta_mlp\..*", "the positions of swinv2_cr"),
    (r"class_embedding|visual\..*", "the names of OpenAI's CLIP"),
)
# Arrays of which a model needs at least one, and what a model without them has.
REQUIRED_ARRAYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("blocks.0.norm1.bias", "layers.0.blocks.0.norm1.bias"),
        "norms without biases, such as RMS norms",
    ),
    (("norm.weight", "fc_norm.weight"), "no norm after the blocks"),
)


def refuse_ambiguous(shapes: Shapes) -> None:
    """Refuse arrays that fit two models of timm, if there is no document to tell which.

    Raises:
      DataError: The arrays also fit timm's `vit_base_patch16_rpn_224`, whose norms follow
        attention and MLP.
    """
    marks = {"blocks.0.attn.qkv.bias", "cls_token", "blocks.0.ls1.gamma"}
    if "blocks.0.attn.qkv.weight" in shapes and not shapes.keys() & marks:
        problem = "neither query and key biases, nor a class token, nor LayerScale"
        hint = "the norms may come after attention and MLP; add timm's config.json to tell"
        raise DataError(f"the weights have {problem}: {hint}")


def refuse(shapes: Shapes) -> None:
    """Refuse the arrays of a model that we do not have.

    Raises:
      DataError: An array shows that the model is not supported.
    """
    for pattern, reason in UNSUPPORTED_ARRAYS:
        match = next((name for name in shapes if re.fullmatch(pattern, name)), None)
        if match:
            raise DataError(f"the weights have {reason} ({match}); this model is not supported")
    if not shapes.keys() & {"blocks.0.norm1.weight", "layers.0.blocks.0.norm1.weight"}:
        return
    for names, reason in REQUIRED_ARRAYS:
        if not shapes.keys() & set(names):
            raise DataError(f"the weights have {reason}; this model is not supported")
