"""Attention distances equal sums over pairs of patches, written out."""

import numpy as np
import pytest

from vit_jax.interpretation.distances import attention_distance
from vit_jax.models.layers.grid import Grid


@pytest.mark.parametrize(("prefix", "padding"), [(0, 0), (2, 0), (1, 3)])
def test_the_distance_is_the_mean_over_queries_of_the_weighted_distance(prefix, padding):
    grid = Grid(2, 3, prefix)
    shape = (2, 4, grid.num_tokens, grid.num_tokens + padding)
    weights = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    signs = np.random.default_rng(1).choice(np.float32([-1, 1]), shape)
    found = attention_distance(weights, grid, (16, 30))
    np.testing.assert_array_equal(attention_distance(signs * weights, grid, (16, 30)), found)
    centres = [(8 * row, 10 * column) for row in range(2) for column in range(3)]
    for head in range(4):
        total = 0.0
        for image in range(2):
            for i, (y, x) in enumerate(centres):
                row = weights[image, head, prefix + i, prefix : prefix + 6].astype(np.float64)
                hops = [np.hypot(y - v, x - u) for v, u in centres]
                total += (row * hops).sum() / row.sum()
        np.testing.assert_allclose(found[head], total / 12, rtol=1e-10)


def test_attention_to_oneself_has_distance_0_and_even_attention_that_of_the_image():
    grid = Grid(4, 4)
    itself = attention_distance(np.eye(16)[None, None], grid, (64, 64))
    even = attention_distance(np.full((1, 1, 16, 16), 1 / 16), grid, (64, 64))
    assert itself == [0]
    assert 30 < even[0] < 40
    attends_to_prefix_only = np.zeros((1, 1, 17, 17))
    attends_to_prefix_only[..., 0] = 1
    assert attention_distance(attends_to_prefix_only, Grid(4, 4, 1), (64, 64)) == [0]
