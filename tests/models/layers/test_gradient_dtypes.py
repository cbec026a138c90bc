"""Linear layers, and the dtype in which their gradients are summed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.models.layers.linear import Linear, linear
from vit_jax.training.parameter_groups import parameter_names

RNG = np.random.default_rng(0)

# Equation, shapes of tokens, kernel and bias.
PRODUCTS = [
    ("bnd,de->bne", (2, 3, 4), (4, 5), (5,)),
    ("bnd,dshc->sbnhc", (2, 3, 4), (4, 3, 2, 2), (3, 1, 1, 2, 2)),
    ("bnhc,hcd->bnd", (2, 3, 2, 4), (2, 4, 5), (5,)),
]


def gradients(equation, arrays, dtype, grad_dtype):
    """Returns the result, and the gradients of a weighted sum of it."""

    def loss(x, kernel, bias):
        y = linear(equation, x, kernel, bias, (None,) * kernel.ndim, dtype, grad_dtype)
        weights = jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) / y.size
        return jnp.sum(weights * y, dtype=jnp.float32), y

    (_, y), found = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)
    return (y, *found)


@pytest.mark.parametrize(("equation", "x", "kernel", "bias"), PRODUCTS)
def test_in_one_dtype_it_is_the_product_and_its_gradient(equation, x, kernel, bias):
    arrays = [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in (x, kernel, bias)]
    plain = gradients(equation, arrays, "float32", "")
    for found, expected in zip(
        gradients(equation, arrays, "float32", "float32"), plain, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("equation", "x", "kernel", "bias"), PRODUCTS)
def test_only_gradients_of_parameters_have_another_dtype(equation, x, kernel, bias):
    arrays = [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in (x, kernel, bias)]
    arrays[0] = arrays[0].astype(jnp.bfloat16)
    plain = gradients(equation, arrays, "bfloat16", "")
    found = gradients(equation, arrays, "bfloat16", "float32")
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_array_equal(found[1], plain[1])
    assert [leaf.dtype for leaf in found] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
    for wide, narrow in zip(found[2:], plain[2:], strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=0.02, atol=0.02)
        assert not on_grid(wide) and on_grid(narrow)


@pytest.mark.parametrize(("grad_dtype", "expected"), [("float32", 263.0), ("", 264.0)])
def test_sums_of_devices_are_added_in_the_dtype(grad_dtype, expected):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    parts = jnp.asarray([256.0, 1, 1, 1, 1, 1, 1, 1]).reshape(8, 1, 1)
    x = jax.device_put(parts, jax.sharding.NamedSharding(mesh, jax.P("data")))
    layer = Linear(1, (None, None), nn.initializers.ones, dtype="bfloat16", grad_dtype=grad_dtype)
    params = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    loss = jax.jit(jax.grad(lambda p: layer.apply({"params": p}, x).sum(dtype=jnp.float32)))
    assert loss(params)["kernel"] == expected


def on_grid(x):
    """Returns whether all values are values of bfloat16."""
    return bool((x == x.astype(jnp.bfloat16).astype(x.dtype)).all())


LINEAR = ("attn/qkv", "attn/out", "mlp/fc1", "mlp/fc2")


@pytest.mark.parametrize("mlp", ["mlp", "swiglu"])
@pytest.mark.parametrize("grad_dtype", ["", "float32"])
def test_the_gradients_that_are_rounded_are_those_of_the_page_on_devices(mlp, grad_dtype):
    sizes = {"depth": 1, "width": 16, "num_heads": 2, "mlp_dim": 32, "num_classes": 3}
    model = models.create("vit_mu4", **sizes, mlp=mlp, dtype="bfloat16", grad_dtype=grad_dtype)
    images = jnp.asarray(RNG.normal(size=(4, 8, 8, 1)), jnp.float32)
    variables = models.init_variables(model, (8, 8, 1), 0)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(RNG.normal(size=x.shape), x.dtype) / 9,
        nn.unbox(variables)["params"],
    )

    def loss(params):
        logits = models.forward(model, {"params": params}, images).logits
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

    grads = jax.grad(loss)(params)
    names = parameter_names(grads)
    leaves = zip(names, jax.tree.leaves(grads), strict=True)
    rounded = {name for name, leaf in leaves if on_grid(leaf)}
    embeddings = {name for name in names if name.split("/")[0] in ("stem", "posemb", "cls_token")}
    layers = {f"blocks_0/{layer}/{kind}" for layer in LINEAR for kind in ("kernel", "bias")}
    assert rounded == embeddings | (set() if grad_dtype else layers)


def test_float64_needs_no_other_dtype():
    with jax.enable_x64(True), pytest.raises(ConfigError, match=r"^config\.model\.grad_dtype: "):
        models.create("vit_s16", dtype="float64", grad_dtype="float32")
