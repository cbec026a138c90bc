"""The image size that weights were trained with, from the rows of their position table."""

import math

from vit_jax.errors import ConfigError
from vit_jax.weights.import_spec import ImportSpec


def find_size(
    spec: ImportSpec, stride: tuple[int, int], *candidates: tuple[int, int] | None
) -> tuple[tuple[int, int], bool]:
    """Return the image size of a position table, and whether the table has rows for the tokens.

    Args:
      spec: What the file states.
      stride: Height and width of a patch in pixels.
      *candidates: Sizes to try first; where none fits, the grid is square.

    Raises:
      ConfigError: The number of positions fits neither a candidate nor a square grid.
    """
    sizes = [size for size in candidates if size]
    if not spec.positions:  # computed, not learned: any size
        return (sizes or [(224, 224)])[0], False
    for height, width in sizes:
        tokens = spec.positions - (height // stride[0]) * (width // stride[1])
        if tokens in (0, spec.num_tokens):
            return (height, width), tokens > 0
    for tokens in (spec.num_tokens, 0):
        side = math.isqrt(max(0, spec.positions - tokens))
        if side and side**2 == spec.positions - tokens:
            return (side * stride[0], side * stride[1]), tokens > 0
    problem = f"{spec.positions} positions are not a square; specify the size they are for"
    raise ConfigError("--data.image_size", problem)
