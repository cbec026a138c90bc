"""The layout of the tokens of an image."""

from typing import NamedTuple, TypeVar

import numpy as np

Integers = TypeVar("Integers", int, np.ndarray)


class Grid(NamedTuple):
    """The token sequence of an image: prefix tokens, then height x width patches, row by row."""

    height: int
    width: int
    num_prefix: int = 0

    @property
    def num_tokens(self) -> int:
        """The number of tokens."""
        return self.num_prefix + self.height * self.width

    @property
    def coords(self) -> np.ndarray:
        """Row and column of each token, in patches, (n, 2); prefix tokens are at (0, 0)."""
        rows, columns = np.mgrid[: self.height, : self.width]
        patches = np.stack([rows, columns], axis=-1).reshape(-1, 2)
        return np.concatenate([np.zeros((self.num_prefix, 2)), patches])


def ceil_div(dividend: Integers, divisor: int) -> Integers:
    """Return the quotient, rounded up."""
    return -(-dividend // divisor)
