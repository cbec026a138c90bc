"""Full attention against its equations, and all variants."""

import functools

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.attention.full import FullAttention
from vit_jax.models.layers.attention.projections import QKVProjection
from vit_jax.models.layers.grid import Grid
from vit_jax.settings.choices import own_fields

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 5, 8)), jnp.float32)
CONTEXT = jnp.asarray(RNG.normal(size=(2, 3, 8)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("module", "grid", "train"))
def run(module, params, x, grid=None, train=False, key=None):
    grid = grid or Grid(1, x.shape[1])
    rngs = {} if key is None else {"dropout": key}
    return module.apply({"params": params}, x, grid, train=train, rngs=rngs)


def random_params(module, x, grid=None):
    grid = grid or Grid(1, x.shape[1])
    shapes = jax.eval_shape(lambda: module.init(KEY, x, grid, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), nn.unbox(shapes)["params"]
    )


def plain_params(q, k, v, b=0.0):
    """Parameters of one head with these projections and an identity as output projection.

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
    """Kernel (d, heads, c) and bias of the projections to queries, keys and values."""
    names = ("qkv",) if "qkv" in params else ("q", "kv")
    kernel = np.concatenate([params[name]["kernel"] for name in names], axis=1)
    bias = np.concatenate([params[name]["bias"] for name in names])
    return [(kernel[:, i], bias[i]) for i in range(3)]


def expected_attention(params, x, context):
    x = np.asarray(x)
    context = np.asarray(context)
    output = params["out"]["bias"]
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
    module = FullAttention(num_heads=2, qk_norm=qk_norm, norm_eps=0.1)
    params = random_params(module, X)
    output = run(module, params, X)
    chex.assert_trees_all_close(output, expected_attention(params, X, X), rtol=1e-5, atol=1e-5)


def test_cross_attention_takes_keys_and_values_from_the_context():
    module = CrossAttention(num_heads=2)
    shapes = nn.unbox(jax.eval_shape(lambda: module.init(KEY, X, CONTEXT)))["params"]
    params = jax.tree.map(lambda leaf: RNG.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    output = module.apply({"params": params}, X, CONTEXT)
    expected = expected_attention(params, X, CONTEXT)
    chex.assert_trees_all_close(output, expected, rtol=1e-5, atol=1e-5)


def cosine_attention(params, x):
    """Liu et al. 2022, eq. 2: cosines times exp(scale), at most 100; keys have no bias."""
    output = params["out"]["bias"]
    kernel = params["qkv"]["kernel"]
    for i, out_kernel in enumerate(params["out"]["kernel"]):
        q, k, v = (x @ kernel[:, j, i] for j in range(3))
        q, v = q + params["qkv"]["bias_qv"][0, i], v + params["qkv"]["bias_qv"][1, i]
        q, k = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
        scale = np.sqrt(q.shape[-1]) * min(np.exp(params["logit_scale"][i]), 100)
        output = output + head(q * scale, k, v) @ out_kernel
    return output


def test_cosine_attention_equals_its_equation_with_a_bounded_scale():
    module = FullAttention(num_heads=2, cosine=True)
    params = random_params(module, X)
    params["logit_scale"] = np.log(np.array([7.0, 1e4], np.float32))
    output = run(module, params, X)
    expected = cosine_attention(params, np.float64(X)).astype(np.float32)
    chex.assert_trees_all_close(output, expected, rtol=1e-4, atol=1e-4)


def test_cosine_attention_of_a_token_that_is_zero_is_finite():
    module = FullAttention(num_heads=2, cosine=True)
    params = jax.tree.map(jnp.zeros_like, random_params(module, X))
    gradient = jax.grad(lambda x: run(module, params, x).sum())(X)
    assert np.isfinite(gradient).all()


def test_the_weights_of_a_token_sum_to_one():
    matrix = RNG.normal(size=(8, 8))
    constant = np.arange(8, dtype=np.float32)
    params = plain_params(matrix, matrix, 0 * matrix, constant)
    output = run(FullAttention(num_heads=1), params, X)
    chex.assert_trees_all_close(output, np.broadcast_to(constant, X.shape), rtol=1e-6, atol=1e-6)


def test_permuted_tokens_give_the_permuted_output():
    module = FullAttention(num_heads=2)
    params = random_params(module, X)
    order = np.array([3, 0, 4, 1, 2])
    permuted, expected = run(module, params, X[:, order]), run(module, params, X)[:, order]
    chex.assert_trees_all_close(permuted, expected, rtol=1e-6, atol=1e-6)


def test_scores_and_softmax_are_float32_when_computing_in_bfloat16():
    # Scores of 32 + 3/16 m: exact in float32, but closer than bfloat16 can resolve. The values are
    # one-hot, so that the output is the weights.
    eye = np.eye(4)
    q, k = np.tile([8, 1, 0, 0], (4, 1)), np.stack([np.full(4, 8), 0.375 * np.arange(4)]).T
    params = plain_params(q, np.pad(k, ((0, 0), (0, 2))), eye)
    x = jnp.asarray(eye, jnp.float32)[None]
    exact = run(FullAttention(num_heads=1), params, x)
    module = FullAttention(num_heads=1, dtype="bfloat16")
    output = run(module, params, x.astype(jnp.bfloat16))
    assert len(np.unique(exact)) == 4
    chex.assert_trees_all_equal(output, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("site", ["dropout", "out_dropout"])
def test_dropout_acts_only_in_training_and_needs_a_key(site):
    plain, module = FullAttention(num_heads=2), FullAttention(num_heads=2, **{site: 0.5})
    params = random_params(plain, X)
    expected = run(plain, params, X)
    chex.assert_trees_all_equal(run(module, params, X), expected)
    train = run(module, params, X, train=True, key=KEY)
    assert not np.allclose(train, expected)
    with pytest.raises(flax.errors.InvalidRngError):
        run(module, params, X, train=True)


def test_attention_dropout_drops_single_weights_and_scales_the_others():
    # Equal scores and one-hot values: the output is the weights, which are 1/4 without dropout.
    eye = np.eye(4)
    params = plain_params(0 * eye, 0 * eye, eye)
    module = FullAttention(num_heads=1, dropout=0.5)
    x = jnp.tile(eye, (16, 1, 1))
    weights = run(module, params, x, train=True, key=KEY)
    assert set(np.unique(weights)) == {0.0, 0.5}


def test_output_dropout_drops_single_channels_and_scales_the_others():
    module = FullAttention(num_heads=2, out_dropout=0.5)
    params = random_params(module, X)
    train = run(module, params, X, train=True, key=KEY)
    kept = np.asarray(train) != 0
    expected = np.where(kept, 2 * run(module, params, X), 0)
    assert kept.any() and not kept.all()
    chex.assert_trees_all_close(train, expected, rtol=1e-6, atol=1e-6)


def test_stacked_projections_are_initialized_by_their_own_fans():
    variables = QKVProjection(num=3, num_heads=4).init(KEY, jnp.zeros((1, 1, 64)))
    limit = np.sqrt(6 / (64 + 64))  # Glorot and Bengio 2010, eq. 16: of a map of 64 to 64
    for largest in np.abs(nn.unbox(variables)["params"]["kernel"]).max(axis=(0, 2, 3)):
        assert 0.99 * limit < largest <= limit


# --- All variants.

GRID = Grid(2, 2, num_prefix=1)
SIZES = {"window": (2, 2), "landmarks": 2}


def make(name, **fields):
    """An attention, with those of the SIZES that it has."""
    entry = ATTENTIONS[name]
    sizes = {key: value for key, value in SIZES.items() if key in own_fields(entry)}
    return entry(num_heads=2, **sizes, **fields)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_entry_states_its_cost_and_its_source(name):
    entry = ATTENTIONS[name]
    assert "n" in entry.cost
    assert " et al. " in entry.__doc__


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_entry_computes_in_its_dtype_with_parameters_in_float32(name, dtype):
    module = make(name, dtype=dtype)
    x = X.astype(dtype)
    output, variables = jax.eval_shape(
        lambda: module.init_with_output(KEY, x, Grid(2, 2, 1), train=False)
    )
    assert (output.shape, output.dtype) == (X.shape, dtype)
    leaves = jax.tree.leaves(nn.unbox(variables))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


WITH_WEIGHTS = [name for name in ATTENTIONS if "dropout" in own_fields(ATTENTIONS[name])]


def test_all_but_three_support_attention_dropout():
    assert set(ATTENTIONS) - set(WITH_WEIGHTS) == {"fused", "nystrom", "linear"}


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_entry_with_weights_drops_them_in_training(name):
    plain, module = (make(name, dropout=rate) for rate in (0.0, 0.5))
    params = random_params(plain, X, GRID)
    expected = run(plain, params, X, GRID)
    chex.assert_trees_all_equal(run(module, params, X, GRID), expected)
    assert not np.allclose(run(module, params, X, GRID, train=True, key=KEY), expected)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_images_of_a_batch_do_not_interact(name):
    module = make(name, block=1)
    x = jnp.asarray(RNG.normal(size=(2, 13, 8)), jnp.float32)
    params = random_params(module, x, Grid(3, 4, 1))
    both, alone = (run(module, params, images, Grid(3, 4, 1)) for images in (x, x[1:]))
    chex.assert_trees_all_close(both[1:], alone, rtol=1e-5, atol=1e-5)
