"""The first filters are the kernel that images meet first, whatever the stem."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.interpretation.filters import filter_components, first_filters

SMALL = {"width": 16, "num_heads": 2, "mlp_dim": 16, "depth": 1, "num_classes": 2}
STEMS = {
    "patch": ("stem/proj", {}),
    "overlap": ("stem/proj", {}),
    "conv": ("stem/conv_0", {}),
    "hmlp": ("stem/conv_0", {}),
    "resnet": ("stem/resnet/conv_root", {"stem.patch": (1, 1), "stem.width_factor": 0.5}),
}


@pytest.mark.parametrize("stem", STEMS)
def test_the_first_filters_are_those_of_the_stem(stem):
    name, fields = STEMS[stem]
    fields = {"stem.patch": (8, 8), **fields}
    model = models.create("vit_mu4", **{**SMALL, "stem": stem, **fields})
    shape = (16, 16, 3)
    variables = nn.meta.unbox(models.abstract_variables(model, shape))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), variables)
    filters = first_filters(model, variables, shape)
    kernel = variables["params"]
    for part in [*name.split("/"), "kernel"]:
        kernel = kernel[part]
    np.testing.assert_array_equal(filters, np.moveaxis(np.asarray(kernel), -1, 0))


def test_components_of_filters_span_them():
    basis = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    mixing = np.random.default_rng(1).normal(size=(30, 2))
    filters = np.einsum("nk,khwc->nhwc", mixing, basis)
    components, shares = filter_components(filters, 3)
    np.testing.assert_allclose(shares[:2].sum(), 1, rtol=1e-9)
    centred = (filters - filters.mean(axis=0)).reshape(30, -1)
    two = components[:2].reshape(2, -1)
    np.testing.assert_allclose(centred @ two.T @ two, centred, atol=1e-9)
