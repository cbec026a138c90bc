"""Stems: shapes, parameters, receptive fields, and equality to independent implementations."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vit_jax.models.layers.resnet import ResNet
from vit_jax.models.layers.stems import STEMS, HalvingStem, HybridEmbed, PatchEmbed

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default

# By stem: a patch, and the height and width in pixels that a token then covers.
CELLS = {
    "patch": ((3, 2), (3, 2)),
    "resnet": ((1, 2), (4, 8)),
    "conv": ((4, 4), (4, 4)),
    "hmlp": ((8, 8), (8, 8)),
    "overlap": ((3, 2), (3, 2)),
}


def make(name, patch=None, width=8, **fields):
    """A small stem."""
    fields |= {"width_factor": 0.5} if name == "resnet" else {}
    return STEMS[name](patch=patch or CELLS[name][0], width=width, **fields)


def init_shapes(module, images):
    """The shapes of the variables of a stem, boxed."""
    return jax.eval_shape(functools.partial(module.init, train=False), KEY, images)


def make_images(height, width, channels=3, batch=2):
    return np.random.default_rng(0).normal(size=(batch, height, width, channels)).astype("float32")


def make_params(module, images):
    """Random parameters."""
    shapes = nn.unbox(init_shapes(module, images))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def apply(module, images, params=None):
    params = make_params(module, images) if params is None else params
    run = jax.jit(functools.partial(module.apply, train=False))
    return run({"params": params}, jnp.asarray(images))


def normalize(x, layer):
    """LayerNorm by its definition."""
    x = np.asarray(x, np.float64)
    variance = x.var(-1, keepdims=True)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    return x * layer["scale"] + layer["bias"]


def random_params(rng, patch, channels, width):
    kernel = rng.normal(size=(*patch, channels, width)).astype(np.float32)
    return {"proj": {"kernel": kernel, "bias": rng.normal(size=width).astype(np.float32)}}


def test_equals_a_matrix_product_per_patch():
    rng = np.random.default_rng(0)
    height, width = 6, 8
    patch = (3, 2)
    images = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    params = random_params(rng, patch, 3, 5)
    matrix = params["proj"]["kernel"].reshape(-1, 5)
    expected = np.zeros((2, height // 3, width // 2, 5), np.float32)
    for row in range(height // 3):
        for column in range(width // 2):
            cut = images[:, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
            expected[:, row, column] = cut.reshape(2, -1) @ matrix + params["proj"]["bias"]
    grid = apply(PatchEmbed(patch=patch, width=5), images, params)
    chex.assert_trees_all_close(grid, expected, rtol=1e-5, atol=1e-5)


def test_parameters_are_named_and_shaped_by_the_patch():
    images = jnp.zeros((1, 6, 8, 3))
    shapes = init_shapes(PatchEmbed(patch=(3, 2), width=5), images)["params"]
    assert shapes["proj"]["kernel"].value.shape == (3, 2, 3, 5)
    assert shapes["proj"]["kernel"].names == (None, None, None, "embed")
    assert shapes["proj"]["bias"].shape == (5,)


@pytest.mark.parametrize("size", [(7, 8), (6, 9)])
def test_a_patch_that_does_not_divide_the_image_is_an_error(size):
    images = jnp.zeros((1, *size, 3))
    with pytest.raises(ValueError, match=r"is not a multiple of the stride \(3, 2\)"):
        PatchEmbed(patch=(3, 2), width=5).init(KEY, images, train=False)


def test_a_hybrid_projects_patches_of_the_resnets_map():
    fields = {"layers": (1,), "width_factor": 0.5, "weight_standardization": "variance"}
    module = HybridEmbed(patch=(2, 1), width=5, norm_eps=0.1, **fields)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 3)), jnp.float32)
    rng = np.random.default_rng(1)
    shapes = nn.unbox(init_shapes(module, images))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    params["params"]["resnet"]["conv_root"]["kernel"] *= 1e-4  # where the two forms differ
    resnet = ResNet((1,), 32, "variance", 0.1)

    @jax.jit
    def both(params):
        own = {name: {"params": value} for name, value in params["params"].items()}
        cells = resnet.apply(own["resnet"], images)
        patches = PatchEmbed(patch=(2, 1), width=5).apply(
            {"params": {"proj": params["params"]["proj"]}}, cells, train=False
        )
        return module.apply(params, images, train=False), patches

    grid, expected = both(params)
    assert grid.shape == (2, 1, 3, 5)
    chex.assert_trees_all_close(grid, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers", "stride"),
    [
        ("patch", (3, 4), (2, 3)),
        ("resnet", (), (8, 12)),
        ("resnet", (3,), (8, 12)),
        ("resnet", (3, 4), (16, 24)),
        ("resnet", (3, 4, 9), (32, 48)),
        ("resnet", (2, 2, 2, 2), (64, 96)),
    ],
)
def test_the_stride_in_pixels(name, layers, stride):
    fields = {"layers": layers} if name == "resnet" else {}
    assert STEMS[name](patch=(2, 3), width=5, **fields).stride == stride


@pytest.mark.parametrize("size", [(8, 18), (12, 12)])
def test_a_stride_that_does_not_divide_the_image_is_an_error(size):
    module = HybridEmbed(patch=(2, 3), width=5, width_factor=0.5)
    with pytest.raises(ValueError, match=r"is not a multiple of the stride \(8, 12\)"):
        init_shapes(module, jnp.zeros((1, *size, 3)))


# --- All stems.


def test_every_stem_is_tested():
    assert CELLS.keys() == STEMS.keys()


@pytest.mark.parametrize("grid", [(2, 2), (1, 3)])
@pytest.mark.parametrize("name", STEMS)
def test_a_token_covers_the_stride(name, grid):
    height, width = CELLS[name][1]
    rows, columns = grid
    images = jnp.zeros((2, rows * height, columns * width, 3))
    module = make(name)
    assert module.stride == (height, width)
    tokens, variables = jax.eval_shape(lambda: module.init_with_output(KEY, images, train=False))
    assert (tokens.shape, tokens.dtype) == ((2, rows, columns, 8), "float32")
    assert variables.keys() == {"params"}  # no statistics of batches


def quarter(d):
    return d // 4


@pytest.mark.parametrize(
    ("name", "patch", "count"),
    [
        ("patch", (3, 2), lambda c, d: 6 * c * d + d),
        ("resnet", (1, 2), lambda c, d: 49 * c * 32 + 2 * 32 + 2 * 32 * d + d),
        ("conv", (2, 2), lambda c, d: 9 * c * d + 3 * d + d * d + d),
        ("conv", (8, 8), lambda c, d: 9 * (c * d // 4 + 5 * d * d // 8) + 21 * d // 4 + d * d + d),
        ("hmlp", (2, 2), lambda c, d: 4 * c * d + 3 * d),
        ("hmlp", (4, 4), lambda c, d: 4 * (c + d) * quarter(d) + 3 * (quarter(d) + d)),
        ("hmlp", (8, 8), lambda c, d: 4 * (4 * c + d) * quarter(d) + 3 * (quarter(d) + d)),
        (
            "hmlp",
            (16, 16),
            lambda c, d: 4 * (4 * c + quarter(d) + d) * quarter(d) + 3 * (2 * quarter(d) + d),
        ),
        (
            "hmlp",
            (32, 32),
            lambda c, d: 4 * (4 * c + 2 * quarter(d) + d) * quarter(d) + 3 * (3 * quarter(d) + d),
        ),
        ("overlap", (3, 2), lambda c, d: 5 * 3 * c * d + 3 * d),
    ],
)
@pytest.mark.parametrize(("channels", "width"), [(3, 16), (1, 24)])
def test_the_number_of_parameters(name, patch, count, channels, width):
    module = make(name, patch, width, pad=True)
    images = jnp.zeros((1, 8, 8, channels))
    params = nn.unbox(init_shapes(module, images))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count(channels, width)


@pytest.mark.parametrize(
    ("name", "patch", "parts"),
    [
        ("conv", (4, 4), ["conv_0", "conv_1", "norm_0", "norm_1", "proj"]),
        ("hmlp", (8, 8), ["conv_0", "conv_1", "norm_0", "norm_1"]),
        ("overlap", (3, 2), ["norm", "proj"]),
    ],
)
def test_only_the_width_is_sharded(name, patch, parts):
    module = make(name, patch)
    params = init_shapes(module, jnp.zeros((1, 24, 24, 3)))["params"]
    assert sorted(params) == parts
    for part in params.values():
        if "kernel" in part:
            kernel = part["kernel"]
            sharded = kernel.value.shape[-1] == module.width
            assert kernel.names == (None, None, None, "embed" if sharded else None)


@pytest.mark.parametrize("name", STEMS)
def test_bfloat16_computes_from_float32_parameters(name):
    height, width = CELLS[name][1]
    images = jnp.asarray(make_images(2 * height, 2 * width))
    module = make(name, width=16, dtype="bfloat16")
    shapes = init_shapes(module, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = make_params(module, images)
    tokens, expected = apply(module, images, params), apply(make(name, width=16), images, params)
    assert tokens.dtype == jnp.bfloat16
    assert 0 < jnp.abs(tokens - expected).max() < 0.05 * jnp.abs(expected).max()


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", STEMS)
def test_padding_is_zeros_at_bottom_and_right(name, missing):
    height, width = CELLS[name][1]
    rows, columns = missing
    images = make_images(2 * height - rows, 2 * width - columns)
    whole = np.pad(images, ((0, 0), (0, rows), (0, columns), (0, 0)))
    params = make_params(make(name), whole)
    expected = apply(make(name), whole, params)
    chex.assert_trees_all_equal(apply(make(name, pad=True), images, params), expected)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", STEMS)
def test_without_padding_an_image_of_another_size_is_an_error(name, axis):
    size = [2 * cell for cell in CELLS[name][1]]
    size[axis] += 1
    with pytest.raises(ValueError, match="is not a multiple of the stride"):
        init_shapes(make(name), jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("patch", [(6, 6), (3, 3), (2, 4), (8, 4), (1, 1)])
@pytest.mark.parametrize("name", STEMS)
def test_stems_that_halve_the_image_need_a_square_power_of_two(name, patch):
    module = make(name, patch, pad=True)
    images = jnp.zeros((1, 8, 8, 3))
    if not issubclass(STEMS[name], HalvingStem):
        init_shapes(module, images)
        return
    with pytest.raises(ValueError, match="expected a square patch with side 2, 4, 8"):
        init_shapes(module, images)


@pytest.mark.parametrize("name", STEMS)
def test_gradients(name):
    """Against central differences in float64, of the parameters and of the image."""
    height, width = CELLS[name][1]
    with jax.enable_x64(True):
        module = make(name, width=4, dtype="float64")
        images = make_images(height, 2 * width, channels=2, batch=1)
        params = make_params(module, images)
        if name == "resnet":
            params["resnet"]["conv_root"]["kernel"] *= 10  # avoids ties of the max pooling
        at = jax.tree.map(jnp.float64, (params, images))
        apply = jax.jit(
            lambda params, images: module.apply({"params": params}, images, train=False)
        )
        assert apply(*at).dtype == jnp.float64
        check_grads(apply, at, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-5)


# --- Receptive fields.


def receptive_field(module, size):
    """Returns a mask of nonzero gradients: token row and column, image row and column."""
    images = make_images(*size, batch=1)
    params = make_params(module, images)
    mix = np.random.default_rng(2).normal(size=module.width)  # a plain sum undoes LayerNorm

    @jax.jit
    def mixed(image):
        return module.apply({"params": params}, image[None], train=False)[0] @ mix

    return np.asarray(jax.jit(jax.jacrev(mixed))(images[0]) != 0).any(-1)


def windows(grid, patch, before):
    """The same for tokens that depend on their patch and `before` rows and columns before it."""
    rows, columns = (
        np.array([[-b <= pixel - s * i < s for pixel in range(n * s)] for i in range(n)])
        for n, s, b in zip(grid, patch, before, strict=True)
    )
    return rows[:, None, :, None] & columns[None, :, None, :]


@pytest.mark.parametrize(
    ("name", "patch", "before"),
    [
        ("patch", (3, 2), (0, 0)),
        ("hmlp", (2, 2), (0, 0)),
        ("hmlp", (4, 4), (0, 0)),
        ("hmlp", (8, 8), (0, 0)),
        ("conv", (2, 2), (1, 1)),
        ("conv", (4, 4), (3, 3)),
        ("overlap", (3, 2), (2, 1)),
    ],
)
def test_the_receptive_field_of_a_token(name, patch, before):
    grid = (3, 4)
    size = tuple(n * s for n, s in zip(grid, patch, strict=True))
    found = receptive_field(make(name, patch, width=16), size)
    np.testing.assert_array_equal(found, windows(grid, patch, before))


def test_hmlp_does_not_connect_patches():
    module = make("hmlp")
    images = make_images(24, 32)
    params = make_params(module, images)
    changed = images.copy()
    changed[:, 8:16, 16:24] += make_images(8, 8)
    different = np.asarray(apply(module, images, params) != apply(module, changed, params)).any(-1)
    expected = np.zeros((2, 3, 4), bool)
    expected[:, 1, 2] = True
    np.testing.assert_array_equal(different, expected)


@pytest.mark.parametrize(("name", "width"), [("conv", 8), ("conv", 4), ("hmlp", 4)])
def test_a_narrow_stem_depends_on_the_image(name, width):
    """LayerNorm reduces one channel to zero, and two channels to a sign."""
    tokens = apply(make(name, (16, 16), width), make_images(16, 16, batch=8))
    assert np.ptp(tokens, axis=0).max() > 0.1


# --- Independent implementations.


@pytest.mark.parametrize("patch", [(2, 2), (4, 4), (8, 8)])
def test_conv_is_a_sequence_of_convolutions(patch):
    images = make_images(8, 24)
    steps = int(math.log2(patch[0]))
    module = make("conv", patch, width=32)
    params = make_params(module, images)

    def conv(x, layer, stride, padding):
        x = jax.lax.conv_general_dilated(
            jnp.float32(x),
            layer["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return x + layer["bias"]

    x = images
    for i in range(steps):
        assert params[f"conv_{i}"]["kernel"].shape[-1] == 32 * 2**i // 2 ** (steps - 1)
        x = normalize(conv(x, params[f"conv_{i}"], 2, 1), params[f"norm_{i}"])
        x = np.maximum(x, 0)
    expected = np.float32(conv(x, params["proj"], 1, 0))
    chex.assert_trees_all_close(apply(module, images, params), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sides", [(2,), (2, 2), (4, 2), (4, 2, 2), (4, 2, 2, 2)])
def test_hmlp_merges_subpatches_by_matrix_products(sides):
    side = math.prod(sides)
    images = make_images(side, 2 * side)
    module = make("hmlp", (side, side), width=20)
    params = make_params(module, images)
    x = np.float64(images)
    for i, s in enumerate(sides):
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // s, s, width // s, s, channels).swapaxes(2, 3)
        kernel = params[f"conv_{i}"]["kernel"]
        assert kernel.shape == (s, s, channels, 20 if i == len(sides) - 1 else 5)
        x = x.reshape(*x.shape[:3], -1) @ kernel.reshape(s * s * channels, -1)
        x = normalize(x + params[f"conv_{i}"]["bias"], params[f"norm_{i}"])
        if i < len(sides) - 1:
            x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    assert f"conv_{len(sides)}" not in params
    tokens = apply(module, images, params)
    chex.assert_trees_all_close(tokens, np.float32(x), rtol=1e-4, atol=1e-4)


def test_overlap_with_the_kernel_of_a_patch_is_the_normalized_patch():
    patch = (3, 2)
    images = make_images(9, 8)
    module = make("overlap", patch)
    params = make_params(module, images)
    inner = random_params(np.random.default_rng(3), patch, 3, 8)
    kernel = np.zeros((5, 3, 3, 8), np.float32)
    kernel[2:, 1:] = inner["proj"]["kernel"]
    params["proj"] = {"kernel": kernel, "bias": inner["proj"]["bias"]}
    expected = normalize(apply(PatchEmbed(patch=patch, width=8), images, inner), params["norm"])
    tokens = apply(module, images, params)
    chex.assert_trees_all_close(tokens, np.float32(expected), rtol=1e-4, atol=1e-4)


def test_overlap_pads_the_image_with_zeros():
    module = make("overlap")
    images = make_images(9, 8)
    params = make_params(module, images)
    framed = np.pad(images, ((0, 0), (3, 3), (2, 2), (0, 0)))
    expected = apply(module, framed, params)[:, 1:-1, 1:-1]
    chex.assert_trees_all_close(apply(module, images, params), expected, rtol=1e-5, atol=1e-5)
