"""How tokens lie."""

import numpy as np

from vit_jax.models.layers.grid import Grid


def test_places_are_row_by_row_behind_the_prefix():
    places = Grid(2, 3, num_prefix=1).places
    assert places.tolist() == [[0, 0], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert places.dtype == np.float64
