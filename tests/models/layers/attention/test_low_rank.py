"""Attention to fewer keys: full attention in the limit, and explicit formulas."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.attention.full import FullAttention
from vit_jax.models.layers.attention.low_rank import (
    KeyProjection,
    Linformer,
    NystromAttention,
    ReducedAttention,
    _landmarks,
)
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb import POSEMBS, resample

KEY = jax.random.key(0, impl="unsafe_rbg")
GRID = Grid(3, 4, num_prefix=2)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 14, 8)), jnp.float32)
ROTARIES = ["none", "rope", "rope_mixed"]


def make(attention, posemb="none", **fields):
    rotary = {} if posemb == "none" else {"rotary": POSEMBS[posemb]}
    return attention(num_heads=2, **rotary, **fields)


def random_params(module, grid=GRID):
    num = grid.num_prefix + grid.height * grid.width
    x = jnp.zeros((1, num, 8))
    shapes = nn.unbox(jax.eval_shape(lambda: module.init(KEY, x, grid, train=False)))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), "float32"), shapes)


@functools.partial(jax.jit, static_argnames=("module", "grid"))
def run(module, params, x=X, grid=GRID):
    return module.apply({"params": params}, x, grid, train=False)


# --- Linformer.


def identity(grid=GRID):
    """The parameters of a projection that returns the tokens unchanged."""
    p = grid.num_prefix
    num = grid.height * grid.width
    eye = jnp.eye(p + num)
    return {"prefix": eye[:p], "grid": eye[p:].reshape(grid.height, grid.width, p + num)}


@pytest.mark.parametrize("posemb", ROTARIES)
def test_linformer_with_identity_projections_is_full_attention(posemb):
    full = make(FullAttention, posemb)
    params = random_params(full)
    found = run(
        make(Linformer, posemb, landmarks=14), {**params, "mix_k": identity(), "mix_v": identity()}
    )
    chex.assert_trees_all_close(found, run(full, params), rtol=1e-5, atol=1e-5)


def test_linformer_attends_to_projections_of_keys_and_of_values():
    module = make(Linformer, landmarks=3)
    params = random_params(module)
    e, f = (
        np.concatenate([params[name]["prefix"], params[name]["grid"].reshape(12, 3)])
        for name in ("mix_k", "mix_v")
    )
    kernel, bias = (np.float64(params["qkv"][name]) for name in ("kernel", "bias"))
    q, k, v = (np.einsum("bnd,dhc->bhnc", X, kernel[:, i]) + bias[i][:, None] for i in range(3))
    scores = q @ np.swapaxes(e.T @ k, -1, -2) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    output = np.einsum("bhnc,hcd->bnd", weights @ (f.T @ v), params["out"]["kernel"])
    expected = np.float32(output + params["out"]["bias"])
    chex.assert_trees_all_close(run(module, params), expected, rtol=1e-4, atol=1e-4)


def test_projections_for_another_grid_are_resampled_and_keep_their_total():
    params = random_params(make(Linformer, landmarks=3))["mix_k"]
    weights = KeyProjection(3).apply({"params": params}, Grid(6, 4, 2))
    chex.assert_trees_all_equal(weights[:2], params["prefix"])
    expected = resample(params["grid"], 6, 4).reshape(24, 3) / 2
    chex.assert_trees_all_close(weights[2:], expected, rtol=1e-6)
    ones = {**params, "grid": jnp.ones((3, 4, 3))}
    even = KeyProjection(3).apply({"params": ones}, Grid(6, 8, 2))
    chex.assert_trees_all_close(even[2:].sum(0), np.full(3, 12, np.float32), rtol=1e-5)


# --- Nystrom.


def distinct(params):
    """Parameters with which tokens attend mostly to themselves, which gives invertible weights."""
    eye = jnp.stack([jnp.eye(8)[:, :4], jnp.eye(8)[:, 4:]], axis=1)
    kernel = jnp.stack([eye * 3, eye * 3, params["qkv"]["kernel"][:, 2]], axis=1)
    return {**params, "qkv": {**params["qkv"], "kernel": kernel}}


@pytest.mark.parametrize("posemb", ROTARIES)
def test_nystrom_with_all_tokens_as_landmarks_is_full_attention(posemb):
    with jax.enable_x64(True):
        fields = {"dtype": "float64"}
        full = make(FullAttention, posemb, **fields)
        params = distinct(jax.tree.map(lambda leaf: leaf.astype("float64"), random_params(full)))
        module = make(NystromAttention, posemb, landmarks=16, iterations=40, **fields)
        x = jnp.asarray(X, "float64")
        found, expected = run(module, params, x), run(full, params, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)


def test_nystrom_is_the_product_of_three_kernels():
    grid = Grid(4, 4, num_prefix=1)
    module = make(NystromAttention, landmarks=4, iterations=30)
    x = RNG.normal(size=(2, 17, 8))
    params = random_params(module, grid)
    kernel, bias = (np.float64(params["qkv"][name]) for name in ("kernel", "bias"))
    q, k, v = (np.einsum("bnd,dhc->bhnc", x, kernel[:, i]) + bias[i][:, None] for i in range(3))

    def landmarks(y):
        means = y[:, :, 1:].reshape(2, 2, 2, 2, 2, 2, 4).mean((3, 5)).reshape(2, 2, 4, 4)
        return np.concatenate([y[:, :, :1], means], axis=2)

    def kernels(a, b):
        exp = np.exp(a @ np.swapaxes(b, -1, -2) / 2)
        return exp / exp.sum(-1, keepdims=True)

    found = (
        kernels(q, landmarks(k))
        @ np.linalg.pinv(kernels(landmarks(q), landmarks(k)))
        @ kernels(landmarks(q), k)
        @ v
    )
    expected = np.einsum("bhnc,hcd->bnd", found, params["out"]["kernel"]) + params["out"]["bias"]
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: leaf.astype("float64"), params)
        found = run(module.clone(dtype="float64"), exact, jnp.asarray(x), grid)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_regions_of_landmarks_may_be_uneven():
    x = jnp.arange(5 * 7, dtype=jnp.float32).reshape(1, 35, 1, 1)
    found = _landmarks(x, Grid(5, 7), 2)[0, :, 0, 0]
    grid = np.arange(35).reshape(5, 7)
    expected = [
        grid[rows, columns].mean()
        for rows in (slice(3), slice(2, 5))
        for columns in (slice(4), slice(3, 7))
    ]
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-6)


# --- Spatial reduction.


@pytest.mark.parametrize("posemb", ROTARIES)
def test_reduction_by_one_with_an_identity_is_full_attention(posemb):
    # The tokens are normalized, so that the norm after the reduction does nothing.
    x = (X - X.mean(-1, keepdims=True)) / X.std(-1, keepdims=True)
    full = make(FullAttention, posemb)
    params = random_params(full)
    kernel, bias = params["qkv"]["kernel"], params["qkv"]["bias"]
    reduced = {
        **{name: part for name, part in params.items() if name != "qkv"},
        "q": {"kernel": kernel[:, :1], "bias": bias[:1]},
        "kv": {"kernel": kernel[:, 1:], "bias": bias[1:]},
        "reduce": {"kernel": jnp.eye(8)[None, None], "bias": jnp.zeros(8)},
        "norm": {"scale": jnp.ones(8), "bias": jnp.zeros(8)},
    }
    found = run(make(ReducedAttention, posemb, reduction=1), reduced, x)
    chex.assert_trees_all_close(found, run(full, params, x), rtol=1e-4, atol=1e-4)


def test_every_token_attends_to_the_whole_reduced_grid():
    module = make(ReducedAttention, reduction=2)
    params = random_params(module)
    jacobian = jax.jacobian(lambda x: run(module, params, x)[0, :, 0])(X[:1])
    assert (np.abs(jacobian).sum((1, 3)) > 0).all()


@pytest.mark.parametrize("size", [(3, 4), (4, 4), (5, 3)])
def test_a_grid_that_the_reduction_does_not_divide_is_padded_with_zeros(size):
    module = make(ReducedAttention, reduction=2)
    grid = Grid(*size)
    params = random_params(module, grid)
    x = jnp.asarray(RNG.normal(size=(1, *size, 8)), jnp.float32)
    whole = Grid(*(-(-n // 2) * 2 for n in size))
    missing = [(0, m - n) for m, n in zip(whole[:2], size, strict=True)]
    padded = jnp.pad(x, ((0, 0), *missing, (0, 0)))
    found = run(module, params, x.reshape(1, -1, 8), grid).reshape(x.shape)
    expected = run(module, params, padded.reshape(1, -1, 8), whole).reshape(padded.shape)
    chex.assert_trees_all_close(found, expected[:, : size[0], : size[1]], rtol=1e-5, atol=1e-5)


def test_reduced_keys_are_rotated_by_the_center_of_their_patches():
    module = make(ReducedAttention, "rope", reduction=2)
    coords = []
    with pytest.MonkeyPatch.context() as patch:
        rotary = POSEMBS["rope"]
        original = rotary.__call__
        patch.setattr(rotary, "__call__", lambda self, at: coords.append(at) or original(self, at))
        jax.eval_shape(lambda: module.init(KEY, X, GRID, train=False))
    queries, keys = coords
    assert (queries == GRID.coords).all()
    assert keys.tolist() == [[0, 0], [0, 0], [0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
