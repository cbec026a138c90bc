"""The ResNet of hybrid models against an independent implementation in NumPy."""

import functools

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.layers.resnet import WEIGHT_STANDARDIZATIONS, Bottleneck, ResNet, StdConv

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
RNG = np.random.default_rng(0)
EPS = 0.1

FORMULAS = {
    "std": lambda w, mean, variance: (w - mean) / (np.sqrt(variance) + 1e-5),
    "variance": lambda w, mean, variance: (w - mean) / np.sqrt(variance + 1e-8),
}


def random_params(module, images, scale=0.5):
    shapes = nn.unbox(jax.eval_shape(module.init, KEY, images))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, scale, leaf.shape)), shapes)


def windows(x, size, stride, fill):
    """The windows (row, column, size, size, channel) of SAME padding: ceil(n / stride) per axis."""
    counts = [-(-n // stride) for n in x.shape[:2]]
    missing = [
        max(0, (k - 1) * stride + size - n) for k, n in zip(counts, x.shape[:2], strict=True)
    ]
    padding = [(n // 2, n - n // 2) for n in missing]  # an odd row or column goes to the end
    x = np.pad(x, [*padding, (0, 0)], constant_values=fill)
    rows, columns = (np.arange(k) * stride for k in counts)
    return np.array([[x[i : i + size, j : j + size] for j in columns] for i in rows])


def conv(x, layer, standardization, stride=1):
    kernel = np.float64(layer["kernel"])
    flat = kernel.reshape(-1, kernel.shape[3])
    kernel = FORMULAS[standardization](kernel, flat.mean(0), flat.var(0))
    return np.einsum("hwijc,ijcf->hwf", windows(x, kernel.shape[0], stride, 0), kernel)


def group_norm(x, layer):
    groups = x.reshape(*x.shape[:2], 32, -1)
    mean, variance = (f(groups, axis=(0, 1, 3), keepdims=True) for f in (np.mean, np.var))
    normal = (groups - mean) / np.sqrt(variance + EPS)
    return normal.reshape(x.shape) * layer["scale"] + layer["bias"]


def bottleneck(x, layer, standardization, stride):
    def part(x, i, stride=1):
        return group_norm(conv(x, layer[f"conv{i}"], standardization, stride), layer[f"norm{i}"])

    y = np.maximum(part(x, 1), 0)
    y = np.maximum(part(y, 2, stride), 0)
    if "conv_proj" in layer:
        x = group_norm(conv(x, layer["conv_proj"], standardization, stride), layer["norm_proj"])
    return np.maximum(x + part(y, 3), 0)


def resnet(x, params, layers, standardization):
    x = group_norm(conv(x, params["conv_root"], standardization, 2), params["norm_root"])
    x = windows(np.maximum(x, 0), 3, 2, -np.inf).max(axis=(2, 3))
    for i, depth in enumerate(layers):
        for j in range(depth):
            stride = 2 if i > 0 and j == 0 else 1
            x = bottleneck(x, params[f"stages_{i}_{j}"], standardization, stride)
    return x


# The height stays even down to the last stage; the width becomes odd.
@pytest.mark.parametrize(
    ("standardization", "layers"), [("std", (2, 1)), ("variance", (1, 1)), ("std", ())]
)
def test_equals_the_reference_in_numpy(standardization, layers):
    module = ResNet(layers, 32, standardization, EPS)
    images = RNG.normal(size=(2, 16, 12, 3)).astype(np.float32)
    params = random_params(module, images)
    expected = [resnet(np.float64(image), params, layers, standardization) for image in images]
    output = jax.jit(module.apply)({"params": params}, images)
    assert output.shape[1:3] == ((2, 2) if layers else (4, 3))
    chex.assert_trees_all_close(output, np.float32(expected), rtol=1e-4, atol=1e-4)


def test_float64_computes_in_float64():
    images = RNG.normal(size=(1, 8, 8, 3))
    with jax.enable_x64(True):
        module = ResNet((1,), 32, "std", EPS, dtype="float64")
        params = random_params(module, images)
        output = jax.jit(module.apply)({"params": params}, images)
    expected = resnet(images[0], jax.tree.map(np.float64, params), (1,), "std")
    chex.assert_trees_all_close(output[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("standardization", WEIGHT_STANDARDIZATIONS)
@pytest.mark.parametrize(("size", "stride"), [(1, 2), (3, 2), (3, 1), (7, 2)])
def test_a_convolution_has_standardized_weights_and_same_padding(size, stride, standardization):
    module = StdConv(5, size, stride, standardization)
    images = jnp.float32(RNG.normal(size=(1, 7, 6, 3)))
    params = random_params(module, images, scale=1e-4)  # where the two forms differ
    output = module.apply({"params": params}, images)
    expected = conv(images[0], params, standardization, stride)
    chex.assert_trees_all_close(output[0], np.float32(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("standardization", WEIGHT_STANDARDIZATIONS)
def test_the_two_standardizations_differ_for_small_weights(standardization):
    kernel = RNG.normal(0, 1e-4, size=(3, 3, 4, 2)).astype(np.float32)
    standardized = WEIGHT_STANDARDIZATIONS[standardization](jnp.asarray(kernel))
    deviation = np.std(standardized, axis=(0, 1, 2))
    least, most = {"std": (0.85, 0.95), "variance": (0.6, 0.8)}[standardization]
    assert (least < deviation).all() and (deviation < most).all()


def test_weights_are_standardized_before_they_are_rounded():
    exact, rounded = StdConv(4, 3), StdConv(4, 3, dtype="bfloat16")
    images = jnp.ones((1, 3, 3, 2))
    params = random_params(exact, images, scale=1e-3)
    params["kernel"] += 1  # bfloat16 would round all weights to 1
    expected, output = (m.apply({"params": params}, images) for m in (exact, rounded))
    assert output.dtype == jnp.bfloat16
    chex.assert_trees_all_close(np.float32(output), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("channels", "stride", "projects"), [(128, 1, False), (128, 2, True)])
def test_the_residual_is_projected_only_where_its_shape_changes(channels, stride, projects):
    module = Bottleneck(32, stride, "std", EPS)
    params = random_params(module, jnp.zeros((1, 4, 4, channels)))
    assert ("conv_proj" in params, "norm_proj" in params) == (projects, projects)


def test_a_new_bottleneck_is_the_identity_followed_by_relu():
    module = Bottleneck(32, 1, "std", EPS)
    x = jnp.asarray(RNG.normal(size=(1, 4, 4, 128)))
    output, _ = jax.jit(functools.partial(module.init_with_output, KEY))(x)
    chex.assert_trees_all_equal(output, nn.relu(x))


def test_names_and_shapes_of_the_parameters():
    params = random_params(ResNet((2, 1), 32, "std", EPS), jnp.zeros((1, 16, 16, 3)))
    leaves = flax.traverse_util.flatten_dict(params, sep="/")
    convs = {
        "_root": (7, 7, 3, 32),
        "stages_0_0/1": (1, 1, 32, 32),
        "stages_0_0/2": (3, 3, 32, 32),
        "stages_0_0/3": (1, 1, 32, 128),
        "stages_0_0/_proj": (1, 1, 32, 128),
        "stages_0_1/1": (1, 1, 128, 32),
        "stages_0_1/2": (3, 3, 32, 32),
        "stages_0_1/3": (1, 1, 32, 128),
        "stages_1_0/1": (1, 1, 128, 64),
        "stages_1_0/2": (3, 3, 64, 64),
        "stages_1_0/3": (1, 1, 64, 256),
        "stages_1_0/_proj": (1, 1, 128, 256),
    }
    expected = {}
    for name, shape in convs.items():
        *stage, end = name.split("/")
        expected["/".join([*stage, f"conv{end}", "kernel"])] = shape
        for part in ("scale", "bias"):
            expected["/".join([*stage, f"norm{end}", part])] = shape[-1:]
    assert {name: leaf.shape for name, leaf in leaves.items()} == expected
