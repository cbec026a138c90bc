"""Infer the image size that weights were trained with from their position embedding."""

import math

from vit_jax.errors import ConfigError
from vit_jax.weights.import_spec import ImportSpec


def find_size(
    spec: ImportSpec, stride: tuple[int, int], *candidates: tuple[int, int] | None
) -> tuple[tuple[int, int], int, tuple[str, ...]]:
    """Infer the image size of a position embedding from its number of rows.

    Args:
      spec: What the file states.
      stride: Height and width of a patch in pixels.
      *candidates: Image sizes (height, width) to try first. If none fits, the grid is taken to be
        square.

    Returns:
      The image size (height, width), the number of rows that belong to prefix tokens, and notes.

    Raises:
      ConfigError: The number of rows fits neither a candidate nor a square grid.
    """
    sizes = [size for size in candidates if size]
    if not spec.positions:  # computed or absent, so any size is possible
        return (sizes or [(224, 224)])[0], 0, ()
    token_rows = tuple(dict.fromkeys(spec.token_rows or (spec.num_tokens, 0)))
    for height, width in sizes:
        tokens = spec.positions - (height // stride[0]) * (width // stride[1])
        if tokens in token_rows:
            return (height, width), tokens, ()
    squares = []
    for tokens in token_rows:
        side = math.isqrt(max(0, spec.positions - tokens))
        if side and side**2 == spec.positions - tokens:
            squares.append((side, tokens))
    if not squares:
        problem = f"{spec.positions} positions are not a square grid; give the image size"
        raise ConfigError("--data.image_size", problem)
    side, tokens = squares[0]
    notes = [
        f"{spec.positions} positions are read as {side}x{side} patches and {tokens} tokens; for "
        f"{other}x{other} and {others}, give --data.image_size={other * stride[0]},"
        f"{other * stride[1]}"
        for other, others in squares[1:]
    ]
    return (side * stride[0], side * stride[1]), tokens, tuple(notes)
