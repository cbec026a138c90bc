"""Infer the arguments of timm's Swin from its arrays."""

import math
import re
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.import_spec import num_outputs
from vit_jax.weights.library import Shapes

QKV = "layers.0.blocks.0.attn.qkv.weight"
# The biases of v1 and of v2. The keys of v2 have none.
BIASES = {"layers.0.blocks.0.attn.qkv.bias", "layers.0.blocks.0.attn.q_bias"}


def infer_arguments(shapes: Shapes) -> dict[str, Any]:
    """Return the arguments that follow from the arrays, mostly under timm's names.

    Unknown sizes are 0, and unknown tuples are empty.
    """
    pattern = r"layers\.(\d+)\.blocks\.\d+\.norm1\.weight"
    stages = [int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name))]
    depths = tuple(stages.count(i) for i in range(max(stages, default=-1) + 1))
    firsts = [f"layers.{i}.blocks.0.attn." for i in range(len(depths))]
    scales = [shapes.get(f"{first}logit_scale", ()) for first in firsts]
    tables = [shapes.get(f"{first}relative_position_bias_table", ()) for first in firsts]
    num_heads: tuple[int, ...] = ()
    if any(scales):
        num_heads = tuple(scale[0] for scale in scales if scale)
    elif all(len(table) == 2 for table in tables):
        num_heads = tuple(table[1] for table in tables)
    kernel = shapes.get("patch_embed.proj.weight", (0, 0, 0, 0))
    head = "head.fc.bias" if "head.fc.bias" in shapes else "head.bias"
    return {
        "embed_dim": kernel[0],
        "in_chans": kernel[1] if len(kernel) == 4 else 0,
        "patch_size": kernel[2:],
        "depths": depths,
        "num_heads": num_heads,
        "num_classes": num_outputs(shapes, head),
        "hidden": shapes.get("layers.0.blocks.0.mlp.fc1.weight", (0,))[0],
        "is_v2": any(scales),
        "qkv_bias": QKV not in shapes or bool(shapes.keys() & BIASES),
    }


def infer_window(shapes: Shapes) -> int:
    """Return the window side from v1's first bias table; 0 if there is none."""
    table = shapes.get("layers.0.blocks.0.attn.relative_position_bias_table", ())
    return (math.isqrt(table[0]) + 1) // 2 if len(table) == 2 else 0


def read_window(stated: Mapping[str, Any], stages: int) -> int:
    """Return the window side that the arguments state; 0 if they state none.

    timm shrinks windows to the grid. Windows of several sizes are accepted if they become equal to
    those of the largest size this way.

    Args:
      stated: The arguments.
      stages: The number of stages.

    Raises:
      DataError: A window is not square, or the windows of the stages differ.
    """
    if "window_size" not in stated:
        return 0
    value = stated["window_size"]
    where = "config.json: window_size"
    is_pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], int)
    sides = [value] * stages if isinstance(value, int) or is_pair else list(value)[:stages]
    squares = []
    for side in sides:
        pair = list(side) if isinstance(side, list | tuple) else [side, side]
        if len(pair) != 2 or pair[0] != pair[1] or type(pair[0]) is not int:
            raise DataError(f"{where}: expected square windows, got {value!r:.60}")
        squares.append(pair[0])
    grid = stated.get("img_size")
    patch = stated.get("patch_size", 4)
    if len(set(squares)) > 1 and isinstance(patch, int) and grid:
        pixels = min(grid) if isinstance(grid, list) else grid
        grids = [math.ceil(pixels / patch / 2**i) for i in range(stages)]
        largest = max(squares)
        if [min(largest, g) for g in grids] == [
            min(s, g) for s, g in zip(squares, grids, strict=True)
        ]:
            return largest
    if len(set(squares)) > 1:
        raise DataError(f"{where}: expected the same window in all stages, got {value!r:.60}")
    return squares[0] if squares else 0
