"""Fused kernels: which one a case takes, and that padding and masks leave the results of `full`."""

import functools
import re
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.models.layers.attention import ATTENTIONS, kernels
from vit_jax.models.layers.attention.kernels import Case
from vit_jax.models.layers.attention.projections import PROJECTIONS, QKVProjection
from vit_jax.models.layers.attention.scores import scores
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb import POSEMBS

KEY = jax.random.key(0, impl="unsafe_rbg")
RNG = np.random.default_rng(0)

# --- The choice.

H100 = Case("gpu", "NVIDIA H100 80GB HBM3", "bfloat16", 197, 64)
V5E = Case("tpu", "TPU v5 lite", "bfloat16", 197, 64, has_mesh=True)


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (H100, "cudnn, 197 tokens padded to 198 (bfloat16 on NVIDIA H100 80GB HBM3)"),
        (H100._replace(num_tokens=196), "cudnn (bfloat16 on NVIDIA H100 80GB HBM3)"),
        (H100._replace(biased=True, masked=True, num_tokens=49), "cudnn, 49 tokens padded to 50"),
        (H100._replace(dtype="float32"), "full (cudnn needs bfloat16)"),
        (H100._replace(dtype="float64"), "full (cudnn needs bfloat16)"),
        (H100._replace(head_dim=20), "full (cudnn needs a multiple of 8 channels per head, at mo"),
        (H100._replace(head_dim=136), "full (cudnn needs a multiple of 8 channels per head, at m"),
        (H100._replace(dropout=0.1), "full (cudnn needs attention weights without dropout)"),
        (H100._replace(num_prefix=1), "full (cudnn needs windows without prefix tokens)"),
        (H100._replace(device="Tesla T4"), "full (cudnn needs an NVIDIA GPU since the generation"),
        (V5E, "splash, 197 tokens padded to 256 (bfloat16 on TPU v5 lite)"),
        (V5E._replace(num_tokens=1370), "splash, 1370 tokens padded to 1536 (bfloat16 on TPU v5"),
        (V5E._replace(dtype="float32"), "full (splash needs bfloat16)"),
        (V5E._replace(biased=True), "full (splash needs scores without a position bias)"),
        (V5E._replace(masked=True), "full (splash needs windows without a mask)"),
        (V5E._replace(dropout=0.1), "full (splash needs attention weights without dropout)"),
        (V5E._replace(has_mesh=False), "full (splash needs a mesh whose axes divide the images"),
        (V5E._replace(num_tokens=49), "full (splash needs more than 64 tokens, as it pads them t"),
        (H100._replace(platform="cpu"), "full (no fused kernel for cpu)"),
    ],
)
def test_a_case_takes_its_kernel_for_a_reason(case, text):
    assert str(kernels.choose(case)).startswith(text)


def test_a_forced_choice_takes_a_kernel_that_does_not_pay_but_none_that_does_not_run():
    small = V5E._replace(num_tokens=49)
    assert str(kernels.choose(small, forced=True)).startswith("splash, 49 tokens padded to 128")
    assert kernels.choose(small._replace(biased=True), forced=True).kernel is None


@pytest.mark.parametrize(
    ("device", "is_known"),
    [
        ("NVIDIA A100-SXM4-40GB", True),
        ("NVIDIA L4", True),
        ("NVIDIA GH200 480GB", True),
        ("NVIDIA B200", True),
        ("NVIDIA GeForce RTX 3090", True),
        ("NVIDIA RTX 6000 Ada Generation", True),
        ("NVIDIA GeForce RTX 2080 Ti", False),
        ("Tesla V100-SXM2-16GB", False),
        ("NVIDIA TITAN V", False),
        ("AMD Instinct MI300X", False),
    ],
)
def test_cudnn_is_for_the_cards_that_have_its_kernel(device, is_known):
    assert (kernels.choose(H100._replace(device=device)).kernel is not None) == is_known


class Device(NamedTuple):
    """The fields of a device that the choice reads."""

    platform: str
    device_kind: str


def test_the_devices_are_those_of_the_mesh_in_context():
    device = Device("tpu", "TPU v5 lite")
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert kernels.current_device() == ("tpu", "TPU v5 lite")
    assert kernels.current_device() == ("cpu", jax.devices()[0].device_kind)


@pytest.mark.parametrize(
    ("batch", "num_heads", "divides"), [(8, 4, True), (4, 2, True), (1, 2, False), (8, 3, False)]
)
def test_a_mesh_divides_images_and_heads_by_the_rules(batch, num_heads, divides):
    assert not kernels.mesh_divides(batch, num_heads)  # there is no mesh
    with jax.set_mesh(sharding.make_mesh((2, 2, 2))), nn.logical_axis_rules(sharding.RULES):
        assert kernels.mesh_divides(batch, num_heads) == divides


# --- The same results. The kernels run on the CPU: cuDNN's by XLA, splash attention interpreted.


def attention(name, posemb="none", **fields):
    entry = POSEMBS[posemb]
    positions = {entry.site: entry} if entry.site else {}
    return ATTENTIONS[name](num_heads=2, **positions, **fields)


def inputs(module, grid, batch=2):
    """Returns random parameters, tokens, and a direction for the gradients."""
    rng = np.random.default_rng(1)
    x, direction = rng.normal(size=(2, batch, grid.num_tokens, 16)).astype(np.float32)
    shapes = jax.eval_shape(lambda x: module.init(KEY, x, grid, train=False), x)["params"]
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), nn.unbox(shapes)
    )
    return params, x, direction


def results(module, grid, params, x, direction):
    """Returns the output, and the gradients by parameters and tokens, compiled anew."""

    @jax.jit
    def run(params, x):
        apply = functools.partial(module.apply, grid=grid, train=True)
        output, gradients = jax.vjp(lambda p, x: apply({"params": p}, x), params, x)
        return output, gradients(direction)

    return jax.device_get(run(params, x))


def assert_equal(found, expected):
    """Asserts equality up to 1e-6 of the largest value of an array, which may be zero but for
    rounding if it is below a twentieth of the largest value of all.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        limit = 1e-6 * max(np.abs(b).max(), largest / 20)
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


KINDS = [
    {},
    {"posemb": "relative_bias"},
    {"posemb": "log_cpb"},
    {"posemb": "rope_mixed"},
    {"qk_norm": True},
    {"cosine": True},
    {"qkv_bias": False},
]


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("grid", [Grid(3, 4, 1), Grid(3, 4)])
def test_cudnn_with_padding_is_full_attention(fields, grid, kernel_on_cpu):
    full = attention("full", **fields)
    given = inputs(full, grid)
    expected = results(full, grid, *given)
    calls = kernel_on_cpu("cudnn")
    assert_equal(results(attention("auto", **fields), grid, *given), expected)
    even = grid.num_tokens + grid.num_tokens % 2
    assert set(calls) == {((2, even, 2, 8), grid.num_tokens)}


GROUPS = [
    {"name": "window", "block": 0},
    {"name": "window", "block": 1},
    {"name": "window", "block": 1, "mask_padding": True},
    {"name": "window", "block": 1, "pad_order": "pad_shift", "posemb": "log_cpb"},
    {"name": "window", "block": 0, "cosine": True, "posemb": "log_cpb"},
    {"name": "window", "block": 1, "posemb": "relative_bias"},
    {"name": "dilated", "block": 0, "posemb": "rope"},
    {"name": "dilated", "block": 1},
]


@pytest.mark.parametrize("fields", GROUPS, ids=str)
@pytest.mark.parametrize("grid", [Grid(6, 6), Grid(5, 7)])
def test_cudnn_in_windows_is_their_plain_form(fields, grid, kernel_on_cpu):
    fields = {**fields, "window": (3, 3)}
    full = attention(**fields, kernel="full")
    given = inputs(full, grid)
    expected = results(full, grid, *given)
    calls = kernel_on_cpu("cudnn")
    assert_equal(results(attention(**fields), grid, *given), expected)
    assert {shape[1:] for shape, _ in calls} == {(10, 2, 8)} and {n for _, n in calls} == {9}


def test_windows_with_prefix_tokens_take_the_plain_form(kernel_on_cpu):
    case = H100._replace(num_prefix=1)
    assert kernels.choose(case).kernel is None
    module = attention("window", window=(3, 3))
    choice = module.choose(2, 16, Grid(6, 6, 1))
    assert choice.case.num_prefix == 1 and choice.kernel is None


@pytest.mark.parametrize("fields", [{}, {"posemb": "rope_mixed"}, {"cosine": True}], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_splash_on_a_mesh_is_full_attention(fields, sizes, kernel_on_cpu):
    grid, devices = Grid(3, 4, 1), jax.devices()[: np.prod(sizes)]
    full = attention("full", **fields)
    given = inputs(full, grid, batch=4)
    expected = results(full, grid, *given)
    calls = kernel_on_cpu("splash")
    mesh = sharding.make_mesh(sizes, devices)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        found = results(attention("auto", **fields), grid, *given)
    assert_equal(found, expected)
    assert set(calls) == {((4, 128, 2, 8), 13)}


def test_splash_is_not_taken_for_one_image_or_without_a_mesh(kernel_on_cpu):
    grid = Grid(3, 4, 1)
    full = attention("full")
    given = inputs(full, grid, batch=1)
    expected = results(full, grid, *given)
    calls = kernel_on_cpu("splash")
    assert_equal(results(attention("auto"), grid, *given), expected)
    with jax.set_mesh(sharding.make_mesh((8, 1, 1))), nn.logical_axis_rules(sharding.RULES):
        assert_equal(results(attention("auto"), grid, *given), expected)
    assert not calls


def test_undefined_gradients_of_the_padding_do_not_spread(kernel_on_cpu, monkeypatch):
    grid = Grid(3, 4, 1)
    given = inputs(attention("full"), grid)
    expected = results(attention("full"), grid, *given)

    def attend(q, k, v, bias, **options):
        return spoil(functools.partial(plain, bias=bias, **options), q, k, v)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def spoil(function, q, k, v):
        return function(q, k, v)

    def backward(function, operands, gradient):
        dq, dk, dv = jax.vjp(function, *operands)[1](gradient)
        return dq, dk.at[:, 13:].set(np.nan), dv.at[:, 13:].set(np.nan)

    spoil.defvjp(lambda function, *operands: (function(*operands), operands), backward)
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    kernel_on_cpu("cudnn")
    assert_equal(results(attention("auto"), grid, *given), expected)


# --- A whole model, in which the tokens are padded once.


@pytest.mark.parametrize("posemb", ["learned", "conditional", "relative_bias"])
def test_a_model_pads_its_tokens_once(posemb, kernel_on_cpu):
    fields = {"posemb": posemb, "depth": 2, "num_classes": 3, "pool": "cls"}
    images = jnp.asarray(RNG.normal(size=(2, 12, 16, 3)), "float32")

    def run(name):
        model = models.create("vit_mu4", **fields, attention=name)
        shapes = nn.unbox(jax.eval_shape(lambda: model.init(KEY, images, train=False)))["params"]
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), "f4"), shapes)

        def loss(params):
            output = models.forward(model, {"params": params}, images)
            return output.logits[:, 0].sum(), output.tokens

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    expected = run("full")
    calls = kernel_on_cpu("cudnn")
    found = run("auto")
    assert {shape[1] for shape, _ in calls} == {14} and {n for _, n in calls} == {13}
    chex.assert_trees_all_equal_shapes(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * max(1, np.abs(b).max()))


# --- The parts.


@pytest.mark.parametrize("form", PROJECTIONS)
@pytest.mark.parametrize("biases", [{}, {"bias": False}, {"key_bias": False}], ids=str)
def test_every_way_to_project_has_the_same_parameters_and_results(form, biases):
    x = jnp.asarray(RNG.normal(size=(2, 5, 8)), "float32")
    plain = QKVProjection(3, 2, **biases)
    variables = nn.unbox(plain.init(KEY, x))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    module = QKVProjection(3, 2, **biases, form=form)
    chex.assert_trees_all_equal_shapes(nn.unbox(module.init(KEY, x)), variables)
    for found, expected in zip(module.apply(variables, x), plain.apply(variables, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def operand_dtypes(function, *operands):
    """Returns the dtypes of the operands of all matrix products of a function."""
    text = jax.jit(function).lower(*operands).as_text()
    products = re.findall(
        r"dot_general.*: \(tensor<(?:\d+x)+(\w+)>, tensor<(?:\d+x)+(\w+)>\)", text
    )
    return set(products)


def test_the_gradient_of_the_scores_has_no_float32_product_in_bfloat16():
    q, k = (jnp.asarray(RNG.normal(size=(2, 5, 2, 8)), "bfloat16") for _ in range(2))
    assert scores(q, k).dtype == jnp.float32
    gradient = jax.grad(lambda q, k: (scores(q, k) ** 2).sum(), argnums=(0, 1))
    assert operand_dtypes(gradient, q, k) == {("bf16", "bf16")}


def test_the_gradient_of_the_scores_is_that_of_an_einsum_to_the_bit_in_float32():
    q, k = (jnp.asarray(RNG.normal(size=(2, 5, 2, 8)), "float32") for _ in range(2))

    def plain(q, k):
        return jnp.einsum("bnhc,bmhc->bhnm", q, k, preferred_element_type="float32")

    def run(function):
        return jax.jit(jax.value_and_grad(lambda q, k: (function(q, k) ** 2).sum(), (0, 1)))(q, k)

    chex.assert_trees_all_equal(run(scores), run(plain))
