"""Linear projections of tokens to the vectors of heads, and back."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vit_jax.models.layers.linear import linear

# Xavier uniform, with the fan-in and fan-out of each projection rather than of the whole stack.
_QKV_INIT = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=0, out_axis=(2, 3), batch_axis=(1,)
)
_OUT_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2)


# `num` projections, (num, b, n, heads, c), or a tuple of them.
Projections = Float[Array, "num b n heads c"] | tuple[Float[Array, "b n heads c"], ...]


class QKVProjection(nn.Module):
    """`num` linear projections of the tokens to per-head vectors, such as queries, keys and values.

    The kernel has the shape (d, num, heads, d / heads).
    """

    num: int
    num_heads: int
    bias: bool = True
    key_bias: bool = True  # False: no bias for the keys, which are the second of three projections
    dtype: str = "float32"
    grad_dtype: str = ""
    form: str = "stacked"  # the way to compute them; a name of `PROJECTIONS`

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Projections:
        """Return the projections."""
        width = x.shape[-1]
        shape = (self.num, self.num_heads, width // self.num_heads)
        names = ("qkv", "heads", "kv")
        kernel_init = nn.with_logical_partitioning(_QKV_INIT, ("embed", *names))
        bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), names)
        kernel: Any = self.param("kernel", kernel_init, (width, *shape), jnp.float32)
        if not self.bias:
            bias: Any = jnp.zeros(shape)
        elif self.key_bias:
            bias = self.param("bias", bias_init, shape, jnp.float32)
        else:
            bias = self.param("bias_qv", bias_init, (2, *shape[1:]), jnp.float32)
            bias = jnp.insert(bias, 1, 0.0, axis=0)
        product = functools.partial(linear, dtype=self.dtype, grad_dtype=self.grad_dtype)
        kernel, bias = jnp.asarray(kernel), jnp.asarray(bias)
        projections = PROJECTIONS[self.form](product, x, kernel, bias)
        return jax.tree.map(lambda y: checkpoint_name(y, "qkv"), projections)


def _stacked(product: Callable[..., Array], x: Array, kernel: Array, bias: Array) -> Array:
    """Project by one einsum to an array (num, b, n, heads, c)."""
    x = product("bnd,dshc->sbnhc", x, kernel, bias[:, None, None], ("embed", "qkv", "heads", "kv"))
    return nn.with_logical_constraint(x, ("qkv", "batch", "tokens", "heads", "kv"))


def _joint(product: Callable[..., Array], x: Array, kernel: Array, bias: Array) -> Array:
    """Project by one matrix product; heads come first, so that they can stay sharded."""
    kernel, bias = kernel.swapaxes(1, 2), bias.swapaxes(0, 1)
    kernel = kernel.reshape(len(kernel), -1)
    x = product("bnd,de->bne", x, kernel, bias.reshape(-1), ("embed", "heads"))
    x = x.reshape(*x.shape[:-1], *bias.shape)
    x = nn.with_logical_constraint(x, ("batch", "tokens", "heads", "qkv", "kv"))
    return jnp.moveaxis(x, 3, 0)


def _separate(
    product: Callable[..., Array], x: Array, kernel: Array, bias: Array
) -> tuple[Array, ...]:
    """Project by one einsum each, with tokens and channels of a head side by side in memory."""

    def project(kernel: Array, bias: Array) -> Array:
        y = product("bnd,dhc->bhnc", x, kernel, bias[:, None], ("embed", "heads", "kv"))
        return nn.with_logical_constraint(y, ("batch", "heads", "tokens", "kv")).swapaxes(1, 2)

    return tuple(project(kernel[:, i], bias[i]) for i in range(len(bias)))


# Ways to compute the same projections, from a linear product, tokens, kernel and bias. Which one
# moves the fewest bytes depends on the devices and on the kernel of the attention.
PROJECTIONS: dict[str, Callable[[Callable[..., Array], Array, Array, Array], Projections]] = {
    "stacked": _stacked,
    "joint": _joint,
    "separate": _separate,
}


class OutProjection(nn.Module):
    """Linear projection of the concatenated heads, with a kernel of shape (heads, d / heads, d)."""

    dtype: str = "float32"
    grad_dtype: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "b n heads c"]) -> Float[Array, "b n d"]:
        """Return one vector per token."""
        _, _, num_heads, head_dim = x.shape
        names = ("heads", "kv", "embed")
        kernel_init = nn.with_logical_partitioning(_OUT_INIT, names)
        width = num_heads * head_dim
        shape = (num_heads, head_dim, width)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (width,), jnp.float32)
        x = linear("bnhc,hcd->bnd", x, kernel, bias, names, self.dtype, self.grad_dtype)
        return checkpoint_name(x, "out")
