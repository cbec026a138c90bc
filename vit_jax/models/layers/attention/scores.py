"""Scores of queries and keys, with gradients in the dtype of the queries."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def scores(
    q: Float[Array, "b n heads c"], k: Float[Array, "b m heads c"]
) -> Float[Array, "b heads n m"]:
    """Return the dot products of queries and keys, in at least float32."""
    return products("bnhc,bmhc->bhnm", q, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def products(equation: str, q: Array, k: Array) -> Array:
    """Return an einsum in at least float32, with the gradients computed in the dtype of `q`.

    Otherwise both matrix products of the gradient would have a float32 operand.
    """
    return _einsum_float32(equation, q, k)


def _einsum_float32(equation: str, q: Array, k: Array) -> Array:
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum(equation, q, k, preferred_element_type=dtype)


def _products_forward(equation: str, q: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
    return _einsum_float32(equation, q, k), (q, k)


def _products_backward(
    equation: str, operands: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    gradient = gradient.astype(operands[0].dtype)
    _, transpose = jax.vjp(functools.partial(jnp.einsum, equation), *operands)
    dq, dk = transpose(gradient)
    return dq, dk


products.defvjp(_products_forward, _products_backward)
