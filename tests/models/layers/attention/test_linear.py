"""Linear attention equals attention with explicit weights relu(q) . relu(k)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.attention.linear import LinearAttention
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb.rotary import AxialRotary, rotate

KEY = jax.random.key(0, impl="unsafe_rbg")
GRID = Grid(3, 4, num_prefix=1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 13, 8))


def random_params(module):
    shapes = jax.eval_shape(lambda: module.init(KEY, jnp.asarray(X), GRID, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), "float32"),
        nn.unbox(shapes)["params"],
    )


def rotated(x):
    angles = AxialRotary(num_heads=2, head_dim=x.shape[-1]).apply({}, GRID.coords)
    result = rotate(jnp.asarray(np.moveaxis(x, 1, 2), jnp.float32), angles)
    return np.moveaxis(np.float64(result), 2, 1)


@pytest.mark.parametrize("rotary", [None, AxialRotary])
def test_equals_attention_with_explicit_weights(rotary):
    module = LinearAttention(num_heads=2, rotary=rotary)
    params = random_params(module)
    kernel, bias = (np.float64(params["qkv"][name]) for name in ("kernel", "bias"))
    q, k, v = (np.einsum("bnd,dhc->bhnc", X, kernel[:, i]) + bias[i][:, None] for i in range(3))
    q, k = np.maximum(q, 0) / 2, np.maximum(k, 0)
    norms = (q @ np.swapaxes(k, -1, -2)).sum(-1, keepdims=True) + 1e-6
    if rotary:
        q, k = rotated(q), rotated(k)
    attended = q @ np.swapaxes(k, -1, -2) / norms @ v
    expected = np.einsum("bhnc,hcd->bnd", attended, params["out"]["kernel"]) + params["out"]["bias"]
    output = module.apply({"params": params}, jnp.asarray(X, jnp.float32), GRID, train=False)
    chex.assert_trees_all_close(output, np.float32(expected), rtol=1e-4, atol=1e-4)


def test_a_query_with_zero_features_gives_zero():
    module = LinearAttention(num_heads=2)
    params = jax.tree.map(jnp.zeros_like, random_params(module))
    output = module.apply({"params": params}, jnp.asarray(X, jnp.float32), GRID, train=False)
    chex.assert_trees_all_equal(output, np.zeros(X.shape, np.float32))


def test_no_pair_of_tokens_has_a_number():
    """What is computed has no more values than tokens times channels, for many tokens."""
    module = LinearAttention(num_heads=2)
    grid = Grid(32, 32)
    params = random_params(module)
    x = jax.ShapeDtypeStruct((1, 1024, 8), jnp.float32)
    program = jax.make_jaxpr(lambda x: module.apply({"params": params}, x, grid, train=False))(x)
    sizes = [out.aval.size for equation in program.eqns for out in equation.outvars]
    assert max(sizes) <= 3 * 1024 * 8
