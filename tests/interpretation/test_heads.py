"""Maps of heads are the weights of the queries that the model reads, on the grid of patches."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.interpretation.heads import head_maps
from vit_jax.interpretation.weights import AttentionMap
from vit_jax.models.layers.grid import Grid

SMALL = {"width": 16, "num_heads": 2, "mlp_dim": 16, "depth": 1, "num_classes": 2}


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("fields", "prefix", "queries"),
    [
        ({"pool": "cls", "num_registers": 2}, 3, [0]),
        ({"pool": "cls", "distilled": True}, 2, [0, 1]),
        ({"pool": "gap", "keep_class_token": True}, 1, range(1, 7)),
        ({"pool": "gap"}, 0, range(6)),
    ],
)
def test_maps_are_those_of_the_queries(fields, prefix, queries, padding):
    model = models.create("vit_mu4", **SMALL, **fields)
    grid = Grid(2, 3, prefix)
    assert grid == model.grids((8, 12))[0]
    shape = (2, 4, grid.num_tokens, grid.num_tokens + padding)
    weights = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    maps = head_maps(model, "blocks_0", AttentionMap(jnp.asarray(weights), grid, ""))
    assert maps.shape == (2, 4, 2, 3)
    expected = weights[:, :, list(queries)].mean(axis=2)[..., prefix : prefix + 6]
    np.testing.assert_allclose(maps.reshape(2, 4, 6), expected, rtol=1e-6)


def test_the_map_of_a_pool_is_that_of_its_probe():
    model = models.create("vit_mu4", **SMALL, pool="map")
    weights = np.random.default_rng(0).uniform(size=(2, 4, 1, 6)).astype(np.float32)
    maps = head_maps(model, "pool", AttentionMap(jnp.asarray(weights), Grid(2, 3), ""))
    np.testing.assert_array_equal(maps, weights.reshape(2, 4, 2, 3))
