"""Gradients of kernels, each summed by the devices that hold a part of the kernel.

Where one axis of the mesh shards both the batch and the kernel, a device needs the gradient of its
part of the kernel alone, as in ZeRO (Rajbhandari et al. 2020, section 5.2): a reduce-scatter. The
compiler of TPUs makes one only where the sharded dimension is the first one in memory; elsewhere,
every device would add the gradients of whole kernels.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array


class Shards(NamedTuple):
    """How a batch and a kernel are sharded.

    Attributes:
      rows: The mesh axes, of more than one device, that shard the rows of the batch.
      kernel: For each dimension of the kernel, the mesh axis that shards it, or None.
    """

    rows: tuple[str, ...]
    kernel: jax.P


def find_shards(batch: int, names: Sequence[str | None]) -> Shards | None:
    """Return how a batch and a kernel are sharded over the mesh in context.

    Args:
      batch: Number of rows of the batch.
      names: Name of each dimension of the kernel.

    Returns:
      The shards, or None if no mesh axis shards both, or if the mesh does not divide the batch.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    (rows,) = nn.logical_to_mesh_axes(("batch",)) or (None,)
    kernel = nn.logical_to_mesh_axes(names) or jax.P()
    if not sizes or rows is None:
        return None
    rows = tuple(axis for axis in rows if sizes[axis] > 1)
    divides = batch % math.prod(sizes[axis] for axis in rows) == 0
    return Shards(rows, kernel) if divides and set(rows) & set(kernel) else None


def kernel_gradient(
    equation: str, x: Array, gradient: Array, dtype: str, shards: Shards | None
) -> Array:
    """Return the gradient of a kernel, sharded as the kernel.

    Args:
      equation: The product as for `jnp.einsum`, of tokens and gradient, with `b` for the batch.
      x: The tokens.
      gradient: The gradient of the result of the linear layer.
      dtype: The dtype in which it is summed over the tokens and over the devices.
      shards: How batch and kernel are sharded; None: the compiler decides how to sum.
    """
    product = functools.partial(jnp.einsum, equation, preferred_element_type=dtype)
    if shards is None:
        return product(x, gradient)
    rows, kernel = shards
    operands, result = equation.split("->")
    axes = {letter: axis for letter, axis in zip(result, kernel, strict=True) if axis not in rows}
    axes["b"] = rows
    in_specs = tuple(jax.P(*map(axes.get, operand)) for operand in operands.split(","))

    @functools.partial(jax.shard_map, in_specs=in_specs, out_specs=kernel)
    def summed(x: Array, gradient: Array) -> Array:
        part = product(x, gradient)
        for dimension, axis in enumerate(kernel):
            if axis in rows:
                part = _sum_and_scatter(part, axis, dimension)
        return jax.lax.psum(part, tuple(axis for axis in rows if axis not in kernel))

    return summed(x, gradient)


def _sum_and_scatter(x: Array, axis: str, dimension: int) -> Array:
    """Return this device's part, along a dimension, of the sum over a mesh axis.

    The parts are made the first dimension, which TPUs need for a reduce-scatter.
    """
    x = jax.lax.optimization_barrier(x)  # else TPUs copy the tokens to compute it in this order
    before, after = x.shape[:dimension], x.shape[dimension + 1 :]
    parts = x.reshape(*before, jax.lax.axis_size(axis), -1, *after)
    return jax.lax.psum_scatter(jnp.moveaxis(parts, dimension, 0), axis)
