"""How the tokens of an image lie."""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Height and width of the patches, row by row, and how many prefix tokens come before them."""

    height: int
    width: int
    num_prefix: int = 0

    @property
    def places(self) -> np.ndarray:
        """Row and column of each token, (n, 2); the prefix tokens are at the first place."""
        rows, columns = np.mgrid[: self.height, : self.width]
        patches = np.stack([rows, columns], axis=-1).reshape(-1, 2)
        return np.concatenate([np.zeros((self.num_prefix, 2)), patches])
