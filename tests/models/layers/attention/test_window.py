"""Attention within groups equals dense attention with the corresponding mask."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.attention.full import FullAttention
from vit_jax.models.layers.attention.window import DilatedAttention, WindowAttention
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb import POSEMBS

KEY = jax.random.key(0, impl="unsafe_rbg")
RNG = np.random.default_rng(0)
POSITIONS = ["none", "rope", "rope_mixed", "relative_bias", "log_cpb"]


def make(attention, posemb="none", **fields):
    entry = POSEMBS[posemb]
    positions = {entry.site: entry} if entry.site else {}
    return attention(num_heads=2, **positions, **fields)


def tokens(grid):
    num = grid.num_prefix + grid.height * grid.width
    return jnp.asarray(RNG.normal(size=(2, num, 8)), jnp.float32)


def random_params(module, grid):
    x = tokens(grid)
    shapes = nn.unbox(jax.eval_shape(lambda: module.init(KEY, x, grid, train=False)))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), "float32"), shapes)


@functools.partial(jax.jit, static_argnames=("module", "grid"))
def run(module, params, x, grid):
    return module.apply({"params": params}, x, grid, train=False)


# --- The limit: a window as large as the grid.


@pytest.mark.parametrize("attention", [WindowAttention, DilatedAttention])
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("posemb", POSITIONS)
def test_a_window_as_large_as_the_grid_is_full_attention(attention, block, posemb):
    grid = Grid(3, 4, num_prefix=2)
    full = make(FullAttention, posemb)
    params = random_params(full, grid)
    x = tokens(grid)
    expected = run(full, params, x, grid)
    for window in ((3, 4), (7, 7)):
        found = run(make(attention, posemb, window=window, block=block), params, x, grid)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("posemb", ["rope", "rope_mixed"])
@pytest.mark.parametrize(("block", "rows", "columns"), [(0, (2, 4), (3, 6)), (1, (1, 3), (1, 4))])
def test_rotary_windows_equal_full_attention_within_a_window(block, rows, columns, posemb):
    grid = Grid(4, 6)
    full = make(FullAttention, posemb)
    params = random_params(full, grid)
    x = tokens(grid)
    found = run(make(WindowAttention, posemb, window=(2, 3), block=block), params, x, grid)
    inside, found = (
        y.reshape(2, 4, 6, 8)[:, slice(*rows), slice(*columns)].reshape(2, 6, 8) for y in (x, found)
    )
    expected = run(full, params, inside, Grid(2, 3))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


# --- Dense attention with a mask.


def dense(params, x, grid, mask, offsets=None):
    """Attention of all tokens with a mask, and with the bias table at the offsets."""
    kernel, bias = params["qkv"]["kernel"], params["qkv"]["bias"]
    q, k, v = (np.einsum("bnd,dhc->bhnc", x, kernel[:, i]) + bias[i][:, None] for i in range(3))
    scores = np.einsum("bhnc,bhmc->bhnm", q, k) / np.sqrt(q.shape[-1])
    if "bias" in params:
        p = grid.num_prefix
        table = params["bias"]["table"]
        prefix = params["bias"].get("prefix")
        added = np.zeros((2, *mask.shape))
        added[:, p:, p:] = np.moveaxis(table[offsets[..., 0], offsets[..., 1]], -1, 0)
        if p:
            to_prefix, from_prefix, among_prefix = prefix[:, :, None, None]
            added[:, p:, :p] = to_prefix
            added[:, :p, p:] = from_prefix
            added[:, :p, :p] = among_prefix
        scores = scores + added
    weights = np.where(mask, np.exp(scores), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    output = np.einsum("bhnm,bhmc->bnhc", weights, v)
    return np.einsum("bnhc,hcd->bnd", output, params["out"]["kernel"]) + params["out"]["bias"]


def pairs(grid, same, offset):
    """Mask and offsets, given functions of two positions; prefix tokens are never masked."""
    p = grid.num_prefix
    rows, columns = np.indices((grid.height, grid.width)).reshape(2, -1)
    n = len(rows)
    mask = np.ones((p + n, p + n), bool)
    offsets = np.zeros((n, n, 2), int)
    for i, j in np.ndindex(n, n):
        a, b = (rows[i], columns[i]), (rows[j], columns[j])
        mask[p + i, p + j] = same(a, b)
        offsets[i, j] = offset(a, b) if same(a, b) else (0, 0)
    return mask, offsets


def windows(grid, window, shift):
    """Mask and offsets of windows; the shift cuts off the first one."""

    def window_of(position):
        return tuple(
            (x + (w - s)) // w if s else x // w
            for x, w, s in zip(position, window, shift, strict=True)
        )

    return pairs(
        grid,
        lambda a, b: window_of(a) == window_of(b),
        lambda a, b: tuple(x - y + w - 1 for x, y, w in zip(a, b, window, strict=True)),
    )


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("posemb", ["none", "relative_bias"])
@pytest.mark.parametrize(
    ("size", "window", "block", "shift"),
    [
        ((4, 6), (2, 3), 0, (0, 0)),
        ((4, 6), (2, 3), 1, (1, 1)),
        ((4, 8), (4, 4), 1, (0, 2)),
        ((6, 6), (3, 2), 3, (1, 1)),
    ],
)
def test_windows_that_divide_the_grid_equal_the_dense_mask(
    size, window, block, shift, posemb, prefix
):
    grid = Grid(*size, prefix)
    for order in ("shift_pad", "pad_shift"):
        module = make(WindowAttention, posemb, window=window, block=block, pad_order=order)
        params = random_params(module, grid)
        x = tokens(grid)
        expected = dense(params, np.float64(x), grid, *windows(grid, window, shift))
        found = run(module, params, x, grid)
        chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("limit", "size", "window", "shift"),
    [
        ("each", (4, 8), (4, 4), (0, 2)),
        ("shorter", (4, 8), (4, 4), (0, 0)),
        ("shorter", (8, 2), (2, 2), (0, 0)),  # timm's limit gives 4 x 2
        ("shorter", (8, 8), (4, 4), (2, 2)),
        ("height", (4, 8), (4, 4), (0, 0)),
        ("height", (8, 4), (4, 4), (2, 2)),
        ("height", (2, 8), (2, 2), (0, 0)),
    ],
)
def test_the_limit_defines_size_and_shift_of_the_windows(limit, size, window, shift):
    grid = Grid(*size)
    module = make(WindowAttention, window=(4, 4), block=1, limit=limit)
    params = random_params(module, grid)
    x = tokens(grid)
    expected = dense(params, np.float64(x), grid, *windows(grid, window, shift))
    found = run(module, params, x, grid)
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("size", [(3, 5), (4, 7), (5, 5)])
def test_masked_padding_has_no_effect(size, block, prefix):
    # With pad_shift the roll wraps around the padded grid, as `windows` assumes.
    grid = Grid(*size, prefix)
    window = (2, 3)
    fields = {"window": window, "block": block, "pad_order": "pad_shift", "mask_padding": True}
    module = make(WindowAttention, "relative_bias", **fields)
    params = random_params(module, grid)
    x = tokens(grid)
    shift = tuple(w // 2 * (block % 2 and n > w) for n, w in zip(size, window, strict=True))
    expected = dense(params, np.float64(x), grid, *windows(grid, window, shift))
    found = run(module, params, x, grid)
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["shift_pad", "pad_shift"])
def test_padding_that_is_not_masked_holds_the_bias_of_keys_and_values(order):
    # One window of 2 x 3 over a grid of 2 x 2 and a column of padding.
    grid = Grid(4, 4)
    module = make(WindowAttention, window=(4, 3), pad_order=order)
    params = random_params(module, grid)
    x = tokens(grid)
    padded = jnp.pad(x.reshape(2, 4, 4, 8), ((0, 0), (0, 0), (0, 2), (0, 0))).reshape(2, 24, 8)
    wide = Grid(4, 6)
    expected = run(module, params, padded, wide).reshape(2, 4, 6, 8)[:, :, :4]
    found = run(module, params, x, grid).reshape(2, 4, 4, 8)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    masked = make(WindowAttention, window=(4, 3), pad_order=order, mask_padding=True)
    other = run(masked, params, x, grid).reshape(2, 4, 4, 8)
    chex.assert_trees_all_close(other[:, :, :3], found[:, :, :3], rtol=1e-5, atol=1e-5)
    assert np.abs(other[:, :, 3] - found[:, :, 3]).max() > 1e-3


def test_the_orders_of_padding_and_shift_differ_where_windows_do_not_divide():
    grid = Grid(5, 5)
    modules = [
        make(WindowAttention, window=(3, 3), block=1, pad_order=order)
        for order in ("shift_pad", "pad_shift")
    ]
    params = random_params(modules[0], grid)
    x = tokens(grid)
    first, second = (run(module, params, x, grid) for module in modules)
    assert np.abs(first - second).max() > 1e-3


# --- Dilated.


def dilated(grid, window):
    steps = [-(-n // w) for n, w in zip(grid[:2], window, strict=True)]
    return pairs(
        grid,
        lambda a, b: all((x - y) % s == 0 for x, y, s in zip(a, b, steps, strict=True)),
        lambda a, b: tuple(
            (x - y) // s + min(w, n) - 1
            for x, y, s, w, n in zip(a, b, steps, window, grid[:2], strict=True)
        ),
    )


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("posemb", ["none", "relative_bias"])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (3, 9)])
def test_dilated_attention_in_odd_blocks_equals_the_dense_mask(size, posemb, prefix):
    grid = Grid(*size, prefix)
    window = (2, 3)
    module = make(DilatedAttention, posemb, window=window, block=1)
    params = random_params(module, grid)
    x = tokens(grid)
    expected = dense(params, np.float64(x), grid, *dilated(grid, window))
    found = run(module, params, x, grid)
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-4, atol=1e-4)


def test_dilated_attention_in_even_blocks_is_that_of_windows_with_masked_padding():
    grid = Grid(5, 7, 1)
    window = make(WindowAttention, window=(2, 3), mask_padding=True)
    params = random_params(window, grid)
    x = tokens(grid)
    found = run(make(DilatedAttention, window=(2, 3)), params, x, grid)
    chex.assert_trees_all_equal(found, run(window, params, x, grid))


def test_two_blocks_of_dilated_attention_connect_all_tokens():
    grid = Grid(6, 6)
    even, odd = (make(DilatedAttention, window=(3, 3), block=i) for i in (0, 1))
    params = random_params(even, grid)

    def both(x):
        return run(odd, params, x + run(even, params, x, grid), grid)[0, :, 0]

    reached = np.abs(jax.jacobian(both)(tokens(grid)[:1])).sum((1, 3))
    assert (reached > 0).all()
