"""Tiny models with random parameters, and the formulas of attention in NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import models
from vit_jax.models.layers.attention.base import Attention

KEY = jax.random.key(0, impl="unsafe_rbg")
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, 12, 20, 3)), jnp.float32)
SWIN_IMAGES = jnp.asarray(RNG.normal(size=(2, 20, 28, 3)), jnp.float32)
SIZES = {"attention.window": (2, 2), "attention.landmarks": 4}
VIT = {"width": 8, "num_heads": 2, "mlp_dim": 8, "depth": 2, "num_classes": 3}
SWIN = {"width": 8, "depths": (2, 1), "num_heads": (2, 2), "num_classes": 3}


def tiny_vit(**fields):
    """A ViT of 3x5 patches of images of 12x20 pixels."""
    parts = {name: value for name, value in fields.items() if isinstance(value, str)}
    declared = models.preset("vit_mu4", parts)
    sizes = {path: value for path, value in SIZES.items() if path in declared}
    return models.create("vit_mu4", **{**VIT, **sizes, **fields})


def tiny_swin(name="swin_t_w7", **fields):
    """A Swin of 5x7, then 3x4 patches of images of 20x28 pixels, whose windows need padding."""
    return models.create(name, **{**SWIN, "attention.window": (2, 3), **fields})


def random_variables(model, images=IMAGES):
    """Random variables, mostly positive, so that no sum of features is near zero."""
    shapes = nn.unbox(jax.eval_shape(lambda: model.init(KEY, images, train=False)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(0.1, 0.3, leaf.shape)), shapes)


@functools.partial(jax.jit, static_argnums=0)
def attention_calls(model, variables, images):
    """Input and output of the attention of each block, in the form in which the model runs."""
    calls = {}

    def record(next_method, args, kwargs, context):
        output = next_method(*args, **kwargs)
        if isinstance(context.module, Attention) and context.method_name == "__call__":
            calls[context.module.path[0]] = (args[0], output)
        return output

    with nn.intercept_methods(record):
        models.forward(model, variables, images)
    return calls


def output_of(weights, params, x):
    """The output of a layer: weights times values, projected; values of padding are the bias."""
    kernel = params["qkv"]["kernel"][:, 2]
    bias = params["qkv"]["bias"][2] if "bias" in params["qkv"] else params["qkv"]["bias_qv"][1]
    x = np.pad(np.float64(x), ((0, 0), (0, weights.shape[-1] - x.shape[1]), (0, 0)))
    values = np.einsum("bmd,dhc->bmhc", x, kernel) + bias
    sums = np.einsum("bhnm,bmhc->bnhc", np.float64(weights), values)
    return np.einsum("bnhc,hcd->bnd", sums, params["out"]["kernel"]) + params["out"]["bias"]
