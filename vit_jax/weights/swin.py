"""Rename rules and fields that timm and transformers share for Swin v1 and v2."""

from collections.abc import Iterator
from typing import Any

from vit_jax.weights.rule_builders import linear, norm
from vit_jax.weights.rules import Rule

# Fields that the code of both libraries hard-codes.
FIELDS = {
    "attention.name": "window",
    "attention.mask_padding": False,
    "attention.qk_norm": False,
    "block.layer_scale": 0.0,
    "pool.name": "gap",
    "mlp.name": "mlp",
    "representation_size": 0,
}
V1 = {"block.name": "pre", "attention.cosine": False, "posemb.name": "relative_bias"}
V2 = {"block.name": "res_post", "attention.cosine": True, "posemb.name": "log_cpb"}
# Tables that follow from the window and are still stored in many files.
BUFFERS = ("relative_position_index", "relative_coords_table")


def bias(theirs: str, ours: str, network: str) -> Iterator[Rule]:
    """Yield the rules of the relative position biases and of the parameters that compute them.

    Args:
      theirs: Prefix of the library's names.
      ours: Prefix of our names.
      network: The library's name of the MLP of Swin v2's continuous position bias.
    """
    table = f"{theirs}relative_position_bias_table"
    yield Rule(table, f"{ours}bias/table", "(r c) h -> r c h")
    yield Rule(f"{theirs}logit_scale", f"{ours}logit_scale", "h 1 1 -> h")
    yield from linear(f"{theirs}{network}.0", f"{ours}bias/fc1")
    yield Rule(f"{theirs}{network}.2.weight", f"{ours}bias/fc2/kernel", "o i -> i o")
    for name in BUFFERS:
        yield Rule(f"{theirs}{name}")


def merge(theirs: str) -> Iterator[Rule]:
    """Yield the rules of patch merging."""
    yield from norm(f"{theirs}.norm", "merge_{i}/norm")
    yield Rule(f"{theirs}.reduction.weight", "merge_{i}/reduction/kernel", "o i -> i o")


def window_sides(value: Any) -> tuple[int, ...]:
    """Return the window side of each stage in pre-training; an empty tuple if it is unknown."""
    if not isinstance(value, list) or not all(type(side) is int for side in value):
        return ()
    return tuple(value) if any(value) else ()
