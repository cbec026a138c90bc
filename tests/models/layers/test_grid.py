"""The coordinates of tokens, and rounding up."""

import numpy as np
import pytest

from vit_jax.models.layers.grid import Grid, ceil_div


def test_coords_are_row_by_row_behind_the_prefix():
    coords = Grid(2, 3, num_prefix=1).coords
    assert coords.tolist() == [[0, 0], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert coords.dtype == np.float64


@pytest.mark.parametrize(("dividend", "divisor", "quotient"), [(0, 3, 0), (6, 3, 2), (7, 3, 3)])
def test_ceil_div_rounds_up(dividend, divisor, quotient):
    assert ceil_div(dividend, divisor) == quotient
    assert ceil_div(np.array([dividend]), divisor).tolist() == [quotient]
