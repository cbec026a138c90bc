"""Patch merging of Swin against its definition, with gradients, on one and on several devices."""

import chex
import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.cluster import sharding
from vit_jax.models.swin import PatchMerging

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 3, 6, 4)), jnp.float32)  # an odd height is padded
PARAMS = {
    "norm": {
        "scale": jnp.asarray(RNG.normal(size=16), jnp.float32),
        "bias": jnp.asarray(RNG.normal(size=16), jnp.float32),
    },
    "reduction": {"kernel": jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32)},
}


def defined(params, x):
    """Liu et al. 2021, section 3.1, in the order of channels of the published weights."""
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    x = einops.rearrange(x, "b (h i) (w j) d -> b h w (j i d)", i=2, j=2)
    return nn.LayerNorm(1e-5).apply({"params": params["norm"]}, x) @ params["reduction"]["kernel"]


@pytest.mark.parametrize("devices", [1, 8])
def test_patch_merging_and_its_gradients_equal_the_definition(devices):
    cotangent = jnp.asarray(RNG.normal(size=(8, 2, 3, 8)) / 384, jnp.float32)  # of a mean

    def value_and_gradients(function, *arguments):
        output, pullback = jax.vjp(function, *arguments)
        return output, pullback(cotangent)

    def merge(params, x):
        return PatchMerging().apply({"params": params}, x)

    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    x = jax.device_put(X, sharding.batch_sharding(mesh))
    actual = jax.jit(value_and_gradients, static_argnums=0)(merge, PARAMS, x)
    expected = jax.jit(value_and_gradients, static_argnums=0)(defined, PARAMS, X)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=1e-6, atol=1e-6)
