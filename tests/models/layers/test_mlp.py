"""Feed-forward networks."""

import math

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.mlp import ACTIVATIONS, MLPS, Mlp, SwiGlu
from vit_jax.settings.choices import own_fields

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

# Independent implementations of the published definitions: Hendrycks and Gimpel 2016, section 2.
FORMULAS = {
    "gelu": np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),  # section 2.1, with another factor
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: 1 - 2 / (1 + np.exp(2 * x)),
}


def random_params(width, mlp_dim, gates=1):
    rng = np.random.default_rng(1)
    shapes = {"fc1": (width, gates * mlp_dim), "fc2": (mlp_dim, width)}
    return {
        name: {key: rng.normal(size=size).astype(np.float32) for key, size in sizes}
        for name, shape in shapes.items()
        for sizes in [(("kernel", shape), ("bias", shape[1:]))]
    }


def make(name, mlp_dim):
    """A network with dropout, and with ReLU if it has an activation."""
    fields = {"activation": "relu"} if "activation" in own_fields(MLPS[name]) else {}
    return MLPS[name](mlp_dim, dropout=0.5, **fields)


def ones_and_identity(module, width):
    """Parameters that map every input to a constant, and that constant."""
    gates = 2 if isinstance(module, SwiGlu) else 1
    zeros = np.zeros((width, gates * width), np.float32)
    eye = np.eye(width, dtype=np.float32)
    fc1 = {"kernel": zeros, "bias": np.ones(gates * width, np.float32)}
    params = {"fc1": fc1, "fc2": {"kernel": eye, "bias": np.zeros(width, np.float32)}}
    return params, np.float32(1 / (1 + math.exp(-1)) if gates == 2 else 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_two_matrix_products_and_the_activation(activation):
    params = random_params(4, 6)
    hidden = FORMULAS[activation](X @ params["fc1"]["kernel"] + params["fc1"]["bias"])
    expected = hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    output = Mlp(6, activation=activation).apply({"params": params}, jnp.asarray(X), train=False)
    chex.assert_trees_all_close(output, expected.astype(np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_equals_its_published_formula(activation):
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    expected = FORMULAS[activation](x.astype(np.float64)).astype(np.float32)
    chex.assert_trees_all_close(ACTIVATIONS[activation](x), expected, rtol=1e-6, atol=1e-6)


def test_swiglu_gates_the_second_half_by_silu_of_the_first():
    params = random_params(4, 6, gates=2)
    gate, value = np.split(X @ params["fc1"]["kernel"] + params["fc1"]["bias"], 2, axis=-1)
    hidden = gate / (1 + np.exp(-gate)) * value
    expected = hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    output = SwiGlu(6).apply({"params": params}, jnp.asarray(X), train=False)
    chex.assert_trees_all_close(output, expected.astype(np.float32), rtol=1e-5, atol=1e-5)
    assert "activation" not in own_fields(SwiGlu)


@pytest.mark.parametrize("name", MLPS)
def test_dropout_acts_after_each_of_the_two_layers(name):
    x = jnp.zeros((4, 8, 16))
    module = make(name, 16)
    params, value = ones_and_identity(module, 16)
    output = module.apply({"params": params}, x, train=True, rngs={"dropout": KEY})
    kept = np.asarray(output) != 0
    np.testing.assert_allclose(output[kept], 4 * value, rtol=1e-6)  # kept twice: 1 / 0.5 / 0.5
    assert abs(kept.mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / kept.size)


@pytest.mark.parametrize("name", MLPS)
def test_dropout_is_off_in_evaluation(name):
    module = make(name, 4)
    params, value = ones_and_identity(module, 4)
    output = module.apply({"params": params}, jnp.asarray(X), train=False)
    chex.assert_trees_all_close(output, np.full_like(X, value), rtol=1e-6)


@pytest.mark.parametrize("name", MLPS)
def test_dropout_needs_a_key(name):
    module = MLPS[name](4, dropout=0.5)
    params, _ = ones_and_identity(module, 4)
    with pytest.raises(flax.errors.InvalidRngError):
        module.apply({"params": params}, jnp.asarray(X), train=True)
