"""Linear layers whose gradients can be summed in another dtype than that of the computation.

A gradient is a sum over the tokens of a batch. By default it has the dtype of the computation: with
bfloat16, each device rounds its sum, and the sums of the devices are added in bfloat16.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.kernel_gradients import Shards, find_shards, kernel_gradient


class Linear(nn.Module):
    """Linear projection of the tokens, with a kernel of shape (d, e)."""

    features: int  # e
    names: tuple[str | None, str | None]  # of the dimensions of the kernel
    kernel_init: Callable[..., Any] = nn.initializers.xavier_uniform()
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    dtype: str = "float32"
    grad_dtype: str = ""  # dtype in which the gradients are summed; empty: `dtype`

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        """Return one vector per token."""
        shape = (x.shape[-1], self.features)
        kernel_init = nn.with_logical_partitioning(self.kernel_init, self.names)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, shape[1:], jnp.float32)
        return linear("bnd,de->bne", x, kernel, bias, self.names, self.dtype, self.grad_dtype)


def linear(
    equation: str,
    x: Array,
    kernel: Any,
    bias: Any,
    names: Sequence[str | None],
    dtype: str,
    grad_dtype: str = "",
) -> Array:
    """Return the product of tokens and a kernel, plus a bias.

    Args:
      equation: The product as for `jnp.einsum`, such as `bnd,de->bne`, without `...`; `b` is the
        batch.
      x: The tokens.
      kernel: The kernel. Each of its dimensions is one of `x` or of the result.
      bias: The bias. It is broadcast to the result.
      names: Name of each dimension of the kernel, by which the mesh shards it.
      dtype: The dtype of the computation.
      grad_dtype: The dtype in which the gradients of kernel and bias are summed over the tokens and
        over the devices; empty: `dtype`.
    """
    shards = find_shards(x.shape[0], names)
    if not grad_dtype and shards is None:
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=dtype)
        return jnp.einsum(equation, x, kernel) + bias
    x = _product(equation, grad_dtype or dtype, shards, x.astype(dtype), kernel)
    if not grad_dtype:
        return x + bias.astype(dtype)
    return _sum(grad_dtype, x, jnp.expand_dims(bias, tuple(range(x.ndim - bias.ndim))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(
    equation: str, grad_dtype: str, shards: Shards | None, x: Array, kernel: Array
) -> Array:
    """Return `jnp.einsum` in the dtype of `x`."""
    return jnp.einsum(equation, x, kernel.astype(x.dtype))


def _product_forward(
    equation: str, grad_dtype: str, shards: Shards | None, x: Array, kernel: Array
) -> Any:
    return _product(equation, grad_dtype, shards, x, kernel), (x, kernel)


def _product_backward(
    equation: str, grad_dtype: str, shards: Shards | None, saved: Any, gradient: Array
) -> Any:
    x, kernel = saved
    operands, result = equation.split("->")
    left, right = operands.split(",")
    of_x = jnp.einsum(f"{result},{right}->{left}", gradient, kernel.astype(x.dtype))
    of_kernel = kernel_gradient(f"{left},{result}->{right}", x, gradient, grad_dtype, shards)
    return of_x, of_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(grad_dtype: str, x: Array, bias: Array) -> Array:
    """Return the sum in the dtype of `x`; `bias` has a size of 1 where it is broadcast."""
    return x + bias.astype(x.dtype)


def _sum_forward(grad_dtype: str, x: Array, bias: Array) -> Any:
    return _sum(grad_dtype, x, bias), bias


def _sum_backward(grad_dtype: str, bias: Array, gradient: Array) -> Any:
    axes = tuple(i for i, size in enumerate(bias.shape) if size == 1)
    of_bias = jnp.sum(gradient, axes, dtype=grad_dtype, keepdims=True)
    return gradient, of_bias.astype(bias.dtype)


_sum.defvjp(_sum_forward, _sum_backward)
