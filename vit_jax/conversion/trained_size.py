"""The image size that weights were trained with, from the rows of their position table."""

import math

from vit_jax.errors import ConfigError
from vit_jax.weights.import_spec import ImportSpec


def find_size(
    spec: ImportSpec, stride: tuple[int, int], *candidates: tuple[int, int] | None
) -> tuple[tuple[int, int], int, tuple[str, ...]]:
    """Return the image size of a position table, how many rows of it tokens have, and notes.

    Args:
      spec: What the file states.
      stride: Height and width of a patch in pixels.
      *candidates: Sizes to try first; where none fits, the grid is square.

    Raises:
      ConfigError: The number of positions fits neither a candidate nor a square grid.
    """
    sizes = [size for size in candidates if size]
    if not spec.positions:  # computed, not learned: any size
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
        problem = f"{spec.positions} positions are not a square; specify the size they are for"
        raise ConfigError("--data.image_size", problem)
    side, tokens = squares[0]
    notes = [
        f"{spec.positions} positions are read as {side}x{side} patches and {tokens} tokens; where "
        f"they are {other}x{other} and {others}, --data.image_size={other * stride[0]},"
        f"{other * stride[1]} says so"
        for other, others in squares[1:]
    ]
    return (side * stride[0], side * stride[1]), tokens, tuple(notes)
