"""What the weights of Swin v1 and v2 have in common in timm and in transformers."""

from collections.abc import Iterator
from typing import Any

from vit_jax.weights.rule_builders import linear, norm
from vit_jax.weights.rules import Rule

# What the code of both libraries computes with all files.
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
# Computed from the window, but stored in many files.
BUFFERS = ("relative_position_index", "relative_coords_table")


def bias(theirs: str, ours: str, network: str) -> Iterator[Rule]:
    """Yield the rules of the attention biases, and of the parameters that they depend on."""
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
    """Return the sides of the windows that weights were trained with; empty if unknown."""
    if not isinstance(value, list) or not all(type(side) is int for side in value):
        return ()
    return tuple(value) if any(value) else ()
