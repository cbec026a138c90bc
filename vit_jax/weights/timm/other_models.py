"""Models of timm and of others whose arrays look like those of a ViT: why they are none of ours."""

import re

from vit_jax.errors import DataError
from vit_jax.weights.library import Shapes

# Names of arrays, and what they say.
ARRAYS: tuple[tuple[str, str], ...] = (
    (r"norm_pre\.weight", "a norm before the blocks, as CLIP has"),
    (r"rope\..*", "rotary positions"),
    (r"blocks\.0\.attn\.relative_position_bias_table", "relative positions, as BEiT has"),
    (r"rel_pos_bias\..*", "relative positions, as BEiT has"),
    (r"blocks\.0\.gamma_1", "the scales of BEiT and EVA, whose blocks are others"),
    (r"blocks\.0\.attns\..*", "two branches in each block"),
    (r"blocks\.0\.(in_proj|mlp_out_proj)\.weight", "attention and MLP in parallel"),
    (r"blocks\.0\.attn\.lambda_\w+", "differential attention"),
    (r"blocks\.0\.(attn|mlp)\.norm\.(weight|bias)", "norms inside attention and MLP"),
    (r"blocks\.0\.mlp\.(fc1_g|w1)\.weight", "a gated MLP of three matrices"),
    (r"pre_logits\.fc\.weight", "a layer before the head, which timm has no more"),
    (r"layers\.0\.blocks\.0\.attn\.meta_mlp\..*", "the positions of swinv2_cr"),
    (r"class_embedding|visual\..*", "the names of OpenAI's CLIP"),
)
MISSING: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("blocks.0.norm1.bias", "layers.0.blocks.0.norm1.bias"),
        "norms without biases, as RMS norms",
    ),
    (("norm.weight", "fc_norm.weight"), "no norm after the blocks"),
)


def refuse_unsure(shapes: Shapes) -> None:
    """Refuse the arrays of a ViT that may be another model, where no document says which.

    Raises:
      DataError: They have all that tells timm's `vit_base_patch16_rpn_224`, whose norms follow
        attention and MLP, but its name.
    """
    marks = {"blocks.0.attn.qkv.bias", "cls_token", "blocks.0.ls1.gamma"}
    if "blocks.0.attn.qkv.weight" in shapes and not shapes.keys() & marks:
        problem = "neither biases of queries and keys, nor a class token, nor scales of layers"
        hint = "their norms may come after attention and MLP; a config.json beside them would say"
        raise DataError(f"the weights have {problem}: {hint}")


def refuse(shapes: Shapes) -> None:
    """Refuse the arrays of another model.

    Raises:
      DataError: An array is there, or missing, that tells them from ours.
    """
    for pattern, reason in ARRAYS:
        found = next((name for name in shapes if re.fullmatch(pattern, name)), None)
        if found:
            raise DataError(f"the weights have {reason} ({found}); there is no such model here")
    if not shapes.keys() & {"blocks.0.norm1.weight", "layers.0.blocks.0.norm1.weight"}:
        return
    for names, reason in MISSING:
        if not shapes.keys() & set(names):
            raise DataError(f"the weights have {reason}; there is no such model here")
