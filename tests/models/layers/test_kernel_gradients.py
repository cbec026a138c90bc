"""Gradients of kernels on a mesh: each device sums its part, and no other."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.models.layers.kernel_gradients import find_shards
from vit_jax.models.layers.linear import linear
from vit_jax.models.stacking import find_stacks, stack, unstack

RNG = np.random.default_rng(0)

# Equation, shapes of tokens and kernel, and names of the kernel's dimensions.
PRODUCTS = [
    ("bnd,de->bne", (16, 3, 8), (8, 12), ("embed", "mlp")),
    ("bnd,de->bne", (16, 3, 12), (12, 8), ("mlp", "embed")),
    ("bnd,dshc->sbnhc", (16, 3, 8), (8, 3, 2, 4), ("embed", "qkv", "heads", "kv")),
    ("bnd,dhc->bhnc", (16, 3, 8), (8, 2, 4), ("embed", "heads", "kv")),
    ("bnhc,hcd->bnd", (16, 3, 2, 4), (2, 4, 8), ("heads", "kv", "embed")),
]
MESHES = [(2, 2, 2), (1, 8, 1), (1, 4, 2), (2, 4, 1)]


def compiled(function, sizes, shardings, *arrays):
    """Returns the result of a function on a mesh, its shardings as given, and its HLO."""
    with jax.set_mesh(sharding.make_mesh(sizes)), nn.logical_axis_rules(sharding.RULES):
        arguments = jax.tree.map(jax.device_put, arrays, shardings)
        step = jax.jit(function, out_shardings=shardings[0]).lower(*arguments).compile()
        return step(*arguments), step.as_text()


def assert_equal(found, expected):
    """Asserts equality up to rounding, relative to the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def sums(text, operation):
    """Returns the number of elements of each result of a collective in HLO, largest first."""
    lines = re.findall(rf" = (.*?) {operation}(?:-start)?\(", text)
    shapes = [shape for line in lines for shape in re.findall(r"\w+\[([\d,]*)\]", line)]
    counts = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
    return sorted(counts, reverse=True)


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize(("equation", "tokens", "shape", "names"), PRODUCTS)
def test_each_device_sums_its_part(sizes, equation, tokens, shape, names):
    x, kernel = (jnp.asarray(RNG.normal(size=size), jnp.float32) for size in (tokens, shape))

    def loss(kernel, x):
        return jnp.sin(linear(equation, x, kernel, jnp.zeros(1), names, "float32")).sum()

    gradient = jax.grad(loss)

    expected = gradient(kernel, x)
    mesh = sharding.make_mesh(sizes)
    spec = nn.logical_to_mesh_axes(names, sharding.RULES)
    shardings = jax.sharding.NamedSharding(mesh, spec), sharding.batch_sharding(mesh)
    found, text = compiled(gradient, sizes, shardings, kernel, x)
    assert_equal(found, expected)
    part = kernel.size // (sizes[1] * sizes[2])
    assert sums(text, "reduce-scatter") == [part]
    assert all(size <= part for size in sums(text, "all-reduce"))


@pytest.mark.parametrize(("rows", "sizes"), [(16, (8, 1, 1)), (16, (4, 1, 2)), (3, (1, 8, 1))])
def test_without_a_common_axis_the_compiler_decides(rows, sizes):
    with jax.set_mesh(sharding.make_mesh(sizes)), nn.logical_axis_rules(sharding.RULES):
        assert find_shards(rows, ("embed", "mlp")) is None
        assert find_shards(rows, ("mlp", None)) is None
    assert find_shards(16, ("embed", "mlp")) is None


@pytest.mark.parametrize("fields", [{}, {"scan": True, "remat": "block"}], ids=str)
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 8, 1)])
def test_in_blocks(sizes, fields):
    # Kernels, parts of kernels, and tokens differ in size.
    shape = {"depth": 2, "width": 32, "num_heads": 2, "mlp_dim": 40, "num_classes": 3}
    model = models.create("vit_mu4", **shape, **fields)
    stacks = find_stacks(model)
    images = jnp.asarray(RNG.normal(size=(16, 8, 12, 1)), jnp.float32)
    boxed = models.init_variables(model, (8, 12, 1), 0)["params"]
    params = jax.tree.map(
        lambda x: x + jnp.asarray(RNG.normal(size=x.shape), x.dtype) / 9, nn.unbox(boxed)
    )

    def loss(params, images):
        logits = models.forward(model, {"params": params}, images).logits
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

    gradient = jax.grad(loss)
    mesh = sharding.make_mesh(sizes)
    shardings = stack(
        sharding.param_shardings(boxed, mesh),
        stacks,
        lambda *layers: jax.sharding.NamedSharding(mesh, jax.P(None, *layers[0].spec)),
    )
    arguments = stack(params, stacks), images
    found, text = compiled(gradient, sizes, (shardings, sharding.batch_sharding(mesh)), *arguments)
    jax.tree.map(assert_equal, unstack(found, stacks), jax.jit(gradient)(params, images))
    block = params["blocks_0"]
    layers = [block["attn"]["qkv"], block["attn"]["out"], block["mlp"]["fc1"], block["mlp"]["fc2"]]
    _, fsdp, tensor = sizes
    wholes = [layer["kernel"].size // tensor for layer in layers]
    copies = 1 if stacks else 2  # of the block in the program
    assert sums(text, "reduce-scatter") == sorted(
        copies * [size // fsdp for size in wholes], reverse=True
    )
    assert not set(wholes) & set(sums(text, "all-reduce"))
