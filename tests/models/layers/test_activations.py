"""The gradients of activations: what they keep, and that they equal automatic differentiation."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.cluster import sharding
from vit_jax.models.layers.activations import ACTIVATIONS, swiglu

FUNCTIONS = {**ACTIVATIONS, "swiglu": swiglu}

# The same functions without a gradient of their own.
PLAIN = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "swiglu": lambda gate, x: nn.silu(gate) * x,
}


def arguments(name, dtype=np.float32):
    """The inputs of a function, and a cotangent."""
    x = np.linspace(-4, 4, 800, dtype=np.float32)
    others = np.random.default_rng(0).uniform(-1, 1, (2, x.size)).astype(np.float32)
    inputs = (x, others[0]) if name == "swiglu" else (x,)
    return tuple(jnp.asarray(a, dtype) for a in inputs), jnp.asarray(others[1], dtype)


def gradients(function, inputs, cotangent):
    return jax.jit(lambda inputs, ct: jax.vjp(function, *inputs)[1](ct))(inputs, cotangent)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_backward_pass_keeps_only_the_inputs(name):
    inputs, _ = arguments(name, jnp.bfloat16)
    kept = [a for a in jax.tree.leaves(jax.vjp(FUNCTIONS[name], *inputs)[1]) if a.ndim]
    chex.assert_trees_all_equal(kept, list(inputs))


def test_the_compiler_does_not_keep_what_both_passes_compute():
    inputs, cotangent = arguments("tanh")

    def both(function):
        return jax.jit(lambda x, ct: (jax.vjp(function, x)[0], jax.vjp(function, x)[1](ct)))

    counts = [
        both(f).lower(*inputs, cotangent).compile().as_text().count(" tanh(")
        for f in (ACTIVATIONS["tanh"], nn.tanh)
    ]
    assert counts == [2, 1]


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradient_equal_automatic_differentiation(name, devices):
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    inputs, cotangent = jax.device_put(arguments(name), sharding.batch_sharding(mesh))
    plain = PLAIN[name]
    chex.assert_trees_all_equal(jax.jit(FUNCTIONS[name])(*inputs), jax.jit(plain)(*inputs))
    expected = gradients(plain, inputs, cotangent)
    actual = gradients(FUNCTIONS[name], inputs, cotangent)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=1e-6)
    with jax.enable_x64(True):  # the second derivative, forward over reverse
        wide = tuple(jnp.asarray(a, jnp.float64) for a in inputs)
        ones = tuple(map(jnp.ones_like, wide))
        second = [
            jax.jvp(lambda *a, f=f: jax.vjp(f, *a)[1](ones[0]), wide, ones)[1]
            for f in (FUNCTIONS[name], plain)
        ]
        chex.assert_trees_all_close(*second, rtol=1e-6, atol=1e-6)
    ones = tuple(jnp.ones_like(a) for a in inputs)
    actual, expected = (jax.jvp(f, inputs, ones)[1] for f in (FUNCTIONS[name], plain))
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_bfloat16_gradient_is_at_least_as_exact_as_that_of_automatic_differentiation(name):
    inputs, cotangent = arguments(name, jnp.bfloat16)
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in (*inputs, cotangent)]
        exact = jax.tree.map(np.asarray, gradients(PLAIN[name], tuple(wide[:-1]), wide[-1]))

    def errors(function):
        rounded = gradients(function, inputs, cotangent)
        return [np.abs(np.asarray(a, np.float64) - b) for a, b in zip(rounded, exact, strict=True)]

    for own, plain, reference in zip(
        errors(FUNCTIONS[name]), errors(PLAIN[name]), exact, strict=True
    ):
        assert own.mean() <= plain.mean() and own.max() <= plain.max()
        assert (own <= np.abs(reference) * 2**-8 + 1e-6).all()  # rounded once
