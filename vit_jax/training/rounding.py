"""Stochastic rounding to bfloat16, which keeps sums of small changes.

To the nearest bfloat16, a change of less than 1/512 of a value is always lost. Rounded up or down
at random, so that the mean is the value (Gupta et al. 2015, eq. 1), it is kept on average.

The random bits are a hash of the seed, the step, the name of the array and the index of the
element. So a resumed run rounds as one that was never stopped, on any number of devices. A hash of
ten integer operations fits into the fusion that computes the value; JAX's threefry takes about 70.
"""

import math
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, BFloat16, Float32, Int, UInt32

from vit_jax.errors import pick
from vit_jax.training.parameter_groups import name_of

# Dtypes of moments and parameters between steps.
HELD_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

_LOW_BITS = 0xFFFF  # of a float32, which bfloat16 lacks


# Parameters that `param_dtype` narrows. Norms, biases and embeddings are less than 1 % of a model.
NARROWED = re.compile(".*/kernel")


def narrow_shapes(params: Any, dtype: str) -> Any:
    """Return the shapes of parameters whose kernels are held in another dtype.

    Args:
      params: Tree of `jax.ShapeDtypeStruct` with shardings.
      dtype: `optim.param_dtype`.

    Raises:
      ConfigError: The dtype is unknown.
    """
    narrow = pick(HELD_DTYPES, dtype, "config.optim.param_dtype")

    def replace(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return leaf.update(dtype=narrow) if NARROWED.fullmatch(name_of(path)) else leaf

    return jax.tree_util.tree_map_with_path(replace, params)


def widen(tree: Any) -> Any:
    """Return the bfloat16 arrays of a tree in float32, and the others as they are."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, tree
    )


def round_second_moments(
    tx: optax.GradientTransformation, seed: int
) -> optax.GradientTransformation:
    """Hold the second moments of Adam in bfloat16, by stochastic rounding.

    Each update is computed from the float32 moment of its step, before it is rounded. The structure
    of the state is that of `tx`.

    Args:
      tx: A transformation whose state holds any number of `optax.ScaleByAdamState`.
      seed: Seed of the rounding.
    """

    def narrow_moment(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
        narrow = optax.tree.cast(state.nu, jnp.bfloat16)
        return state._replace(nu=round_like(state.nu, narrow, f"{seed} nu", state.count))

    def widen_moment(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
        return state._replace(nu=widen(state.nu))

    def init(params: Any) -> Any:
        return _map_adam(narrow_moment, tx.init(params))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = tx.update(grads, _map_adam(widen_moment, state), params)
        return updates, _map_adam(narrow_moment, state)

    return optax.GradientTransformation(init, update)


def _map_adam(function: Any, state: Any) -> Any:
    """Apply a function to the states of Adam in the state of an optimizer."""

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    return jax.tree.map(
        lambda node: function(node) if is_adam(node) else node, state, is_leaf=is_adam
    )


def round_like(tree: Any, like: Any, seed: str, step: Int[Array, ""]) -> Any:
    """Round the float32 arrays of a tree to bfloat16 where another tree has it.

    Args:
      tree: Nested dictionaries of arrays.
      like: Arrays of the same shapes, in float32 or bfloat16.
      seed: Seed of the random bits, together with the step and the names of the arrays.
      step: The step.
    """

    def round_leaf(path: tuple[Any, ...], leaf: Array, other: Array) -> Array:
        if leaf.dtype == other.dtype:
            return leaf
        salt = jnp.uint32(zlib.crc32(f"{seed} {name_of(path)}".encode()))
        return stochastic_round(leaf, _hash(salt + step.astype(jnp.uint32)))

    return jax.tree_util.tree_map_with_path(round_leaf, tree, like)


def stochastic_round(
    x: Float32[Array, "*shape"], seed: UInt32[Array, ""]
) -> BFloat16[Array, "*shape"]:
    """Round to one of the two nearest bfloat16 values, so that the mean is `x`.

    A random number below 2^16 is added to the bits of the float32, and the lower 16 bits are cut
    off. Values that are not finite stay as they are.

    Args:
      x: The values.
      seed: Seed of the random bits; all elements are rounded independently.
    """
    random = _hash(_indices(x.shape) ^ seed) & _LOW_BITS
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + random) & ~np.uint32(_LOW_BITS)
    rounded = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _indices(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Return the position of each element in row-major order, modulo 2^32."""
    strides = [math.prod(shape[i + 1 :]) % 2**32 for i in range(len(shape))]
    iotas = [jax.lax.broadcasted_iota(jnp.uint32, shape, i) for i in range(len(shape))]
    return sum(
        (iota * np.uint32(stride) for iota, stride in zip(iotas, strides, strict=True)),
        start=jnp.zeros(shape, jnp.uint32),
    )


def _hash(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Mix the bits of 32-bit integers: Chris Wellons' `lowbias32` (Hash Prospector, 2018)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
