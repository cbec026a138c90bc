"""Multi-head attention, against its equations."""

import functools

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.attention import Attention, HeadsIn

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 5, 8)), jnp.float32)
CONTEXT = jnp.asarray(RNG.normal(size=(2, 3, 8)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("module", "train"))
def run(module, params, *inputs, train=False, key=None):
    rngs = {} if key is None else {"dropout": key}
    return module.apply({"params": params}, *inputs, train=train, rngs=rngs)


def random_params(module, *inputs):
    shapes = jax.eval_shape(lambda: module.init(KEY, *inputs, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), nn.unbox(shapes)["params"]
    )


def plain_params(q, k, v, b=0.0):
    """Parameters of one head whose projections are the matrices; nothing is mixed on the way out.

    `b` is the bias of the values.
    """
    width = len(q)
    kernel = np.stack([q, k, v], axis=1)[:, :, None].astype(np.float32)
    bias = np.zeros((3, 1, width), np.float32)
    bias[2] = b
    out = {"kernel": np.eye(width, dtype=np.float32)[None], "bias": np.zeros(width, np.float32)}
    return {"qkv": {"kernel": kernel, "bias": bias}, "out": out}


def normalize(x, params):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 0.1) * params["scale"] + params["bias"]


def head(q, k, v):
    """Softmax attention of one head (Vaswani et al. 2017, eq. 1)."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def stacks(params):
    """The projections of queries, keys and values: a kernel (d, heads, c) and a bias each."""
    names = ("qkv",) if "qkv" in params else ("q", "kv")
    kernel = np.concatenate([params[name]["kernel"] for name in names], axis=1)
    bias = np.concatenate([params[name]["bias"] for name in names])
    return [(kernel[:, i], bias[i]) for i in range(3)]


def expected_attention(params, x, context):
    x, context, output = np.asarray(x), np.asarray(context), params["out"]["bias"]
    for i, out_kernel in enumerate(params["out"]["kernel"]):
        q, k, v = (
            tokens @ kernel[:, i] + bias[i]
            for tokens, (kernel, bias) in zip((x, context, context), stacks(params), strict=True)
        )
        if "q_norm" in params:
            q, k = normalize(q, params["q_norm"]), normalize(k, params["k_norm"])
        output = output + head(q, k, v) @ out_kernel
    return output.astype(np.float32)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_self_attention_equals_softmax_attention(qk_norm):
    module = Attention(num_heads=2, qk_norm=qk_norm, norm_eps=0.1)
    params = random_params(module, X)
    output = run(module, params, X)
    chex.assert_trees_all_close(output, expected_attention(params, X, X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_cross_attention_takes_keys_and_values_from_the_context(qk_norm):
    module = Attention(num_heads=2, qk_norm=qk_norm, norm_eps=0.1)
    params = random_params(module, X, CONTEXT)
    output = run(module, params, X, CONTEXT)
    expected = expected_attention(params, X, CONTEXT)
    chex.assert_trees_all_close(output, expected, rtol=1e-5, atol=1e-5)


def test_the_weights_of_a_token_sum_to_one():
    matrix = RNG.normal(size=(8, 8))
    constant = np.arange(8, dtype=np.float32)
    params = plain_params(matrix, matrix, 0 * matrix, constant)
    output = run(Attention(num_heads=1), params, X)
    chex.assert_trees_all_close(output, np.broadcast_to(constant, X.shape), rtol=1e-6, atol=1e-6)


def test_permuted_tokens_give_the_permuted_output():
    module = Attention(num_heads=2)
    params = random_params(module, X)
    order = np.array([3, 0, 4, 1, 2])
    permuted, expected = run(module, params, X[:, order]), run(module, params, X)[:, order]
    chex.assert_trees_all_close(permuted, expected, rtol=1e-6, atol=1e-6)


def test_scores_and_softmax_are_float32_when_computing_in_bfloat16():
    # Scores of 32 + 3/16 m: exact in float32, apart by less than bfloat16 can tell. Values are
    # one-hot, so that the output is the weights.
    eye = np.eye(4)
    q, k = np.tile([8, 1, 0, 0], (4, 1)), np.stack([np.full(4, 8), 0.375 * np.arange(4)]).T
    params = plain_params(q, np.pad(k, ((0, 0), (0, 2))), eye)
    x = jnp.asarray(eye, jnp.float32)[None]
    exact = run(Attention(num_heads=1), params, x)
    module = Attention(num_heads=1, dtype="bfloat16")
    output = run(module, params, x.astype(jnp.bfloat16))
    assert len(np.unique(exact)) == 4
    chex.assert_trees_all_equal(output, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("site", ["attn_dropout", "dropout"])
def test_dropout_acts_only_in_training_and_needs_a_key(site):
    plain, module = Attention(num_heads=2), Attention(num_heads=2, **{site: 0.5})
    params = random_params(plain, X)
    expected = run(plain, params, X)
    chex.assert_trees_all_equal(run(module, params, X), expected)
    train = run(module, params, X, train=True, key=KEY)
    assert not np.allclose(train, expected)
    with pytest.raises(flax.errors.InvalidRngError):
        run(module, params, X, train=True)


def test_attention_dropout_drops_single_weights_and_scales_the_others():
    # Equal scores and one-hot values: the output is the weights, 1/4 each where none is dropped.
    eye = np.eye(4)
    params = plain_params(0 * eye, 0 * eye, eye)
    module, x = Attention(num_heads=1, attn_dropout=0.5), jnp.tile(eye, (16, 1, 1))
    weights = run(module, params, x, train=True, key=KEY)
    assert set(np.unique(weights)) == {0.0, 0.5}


def test_output_dropout_drops_single_channels_and_scales_the_others():
    module = Attention(num_heads=2, dropout=0.5)
    params = random_params(module, X)
    train = run(module, params, X, train=True, key=KEY)
    kept = np.asarray(train) != 0
    expected = np.where(kept, 2 * run(module, params, X), 0)
    assert kept.any() and not kept.all()
    chex.assert_trees_all_close(train, expected, rtol=1e-6, atol=1e-6)


def test_stacked_projections_are_initialized_by_their_own_fans():
    variables = HeadsIn(num=3, num_heads=4).init(KEY, jnp.zeros((1, 1, 64)))
    limit = np.sqrt(6 / (64 + 64))  # Glorot and Bengio 2010, eq. 16: of a map of 64 to 64
    for largest in np.abs(nn.unbox(variables)["params"]["kernel"]).max(axis=(0, 2, 3)):
        assert 0.99 * limit < largest <= limit
