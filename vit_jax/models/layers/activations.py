"""Activations of a model, and their gradients, which keep little memory.

Automatic differentiation keeps the intermediate values of a function for the backward pass, those
of exact GELU in three arrays. Here the backward pass recomputes them from the input.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def keep_inputs(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return a function whose gradient keeps only the inputs.

    It computes the derivative in at least float32, and rounds once. All transforms of JAX apply,
    also forward-mode differentiation.

    Args:
      function: A function of arrays of one shape and dtype, which it preserves. Only cheap
        functions should be recomputed.
    """

    @jax.custom_jvp
    @functools.wraps(function)
    def wrapped(*inputs: ArrayLike) -> Array:
        return function(*inputs)

    # A barrier around the cotangents too, as of `prevent_cse`, would keep XLA from fusing them with
    # the matrix product that computes them.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(inputs: Any, tangents: Any) -> Array:
        dtype = jnp.promote_types(inputs[0].dtype, jnp.float32)
        if dtype == inputs[0].dtype:  # XLA would find the values of the forward pass, and keep them
            inputs = jax.lax.optimization_barrier(inputs)
        wide = jax.tree.map(lambda x: x.astype(dtype), (inputs, tangents))
        return jax.jvp(function, *wide)[1].astype(inputs[0].dtype)

    wrapped.defjvp(lambda inputs, tangents: (wrapped(*inputs), tangent(inputs, tangents)))
    return wrapped


@keep_inputs
def swiglu(gate: Float[Array, "*b m"], x: Float[Array, "*b m"]) -> Float[Array, "*b m"]:
    """Gate features by the SiLU of others (Shazeer 2020, section 2).

    Args:
      gate: The features to which SiLU is applied.
      x: The features that are gated.
    """
    return nn.silu(gate) * x


# Google's weights were trained with the tanh approximation of GELU, those of timm and Hugging Face
# with the exact function.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": keep_inputs(functools.partial(nn.gelu, approximate=False)),
    "gelu_tanh": keep_inputs(functools.partial(nn.gelu, approximate=True)),
    "quick_gelu": keep_inputs(lambda x: x * nn.sigmoid(1.702 * x)),  # of OpenAI's CLIP
    "relu": keep_inputs(nn.relu),
    "silu": keep_inputs(nn.silu),
    "tanh": keep_inputs(nn.tanh),
}
