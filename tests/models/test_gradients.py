"""Gradients of every attention, position embedding and stem against finite differences."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import flatten
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import STEMS

KEY = jax.random.key(0, impl="unsafe_rbg")
FIELDS = {
    "vit": {
        "width": 8,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 8,
        "num_classes": 3,
    },
    "swin": {
        "width": 8,
        "depths": (2, 1),
        "num_heads": (2, 2),
        "mlp_ratio": 1.0,
        "num_classes": 3,
    },
}
# Sizes of the parts that have them.
SIZES = {
    "stem.patch": (4, 4),
    "stem.width_factor": 0.5,
    "attention.window": (2, 2),
    "attention.landmarks": 4,
}


def sized(name, **fields):
    """The fields of a small model, with those of the SIZES that its parts have."""
    small = {**FIELDS[models.family(name).name], **fields}
    spec = models.spec(name, **small)
    sizes = {path: value for path, value in SIZES.items() if path in flatten(spec.to_dict())}
    if spec.stem.name == "resnet":  # the ResNet itself reduces height and width by 4
        sizes["stem.patch"] = (1, 1)
    return {**small, **sizes}


# Every entry once with the defaults, and combinations that interact.
MODELS = {
    **{f"{name} attention": ("vit_mu4", {"attention": name}) for name in ATTENTIONS},
    **{f"{name} positions": ("vit_mu4", {"posemb": name}) for name in POSEMBS},
    **{f"{name} stem": ("vit_mu4", {"stem": name}) for name in STEMS},
    "biased windows": ("vit_mu4", {"attention": "window", "posemb": "relative_bias"}),
    "rotated features": ("vit_mu4", {"attention": "linear", "posemb": "rope_mixed"}),
    "swin": ("swin_t_w7", {}),
    "swinv2": ("swinv2_t_w8", {}),
}


@pytest.mark.parametrize("case", MODELS)
def test_gradients_equal_central_differences(case):
    name, fields = MODELS[case]
    size = (16, 16) if fields.get("stem") == "resnet" else (12, 16)
    dtype, step, rtol = "float64", 1e-5, 1e-6
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        model = models.create(name, **sized(name, **fields), dtype=dtype)
        images = jnp.asarray(rng.normal(size=(2, *size, 3)), dtype)
        shapes = jax.eval_shape(functools.partial(model.init, train=False), KEY, images)
        params, direction = (
            jax.tree.map(
                lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), dtype),
                nn.unbox(shapes)["params"],
            )
            for _ in range(2)
        )

        @jax.jit
        @jax.value_and_grad
        def loss_and_grad(params):
            logits = models.forward(model, {"params": params}, images).logits
            return nn.log_softmax(logits)[:, 1].sum()

        def at(distance):
            return loss_and_grad(jax.tree.map(lambda p, d: p + distance * d, params, direction))

        found = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, at(0.0)[1], direction)))
        expected = (at(step)[0] - at(-step)[0]) / (2 * step)
        assert abs(found) > 1e-3
        np.testing.assert_allclose(found, expected, rtol=rtol)
