"""How large and how costly a model is, read off its program; nothing is computed."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Profile:
    """Size and cost of a model.

    `gflops` are billions of multiply-adds for one image, as papers count them: those of matrix
    products and convolutions, attention included. A multiplication and an addition are one.
    """

    parameters: int
    gflops: float


def profile(model: nn.Module, image_size: tuple[int, int] = (224, 224)) -> Profile:
    """Returns size and cost of a model for RGB images of a height and a width in pixels.

    Raises:
      ValueError: The model's stride does not divide the size.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)

    def init(images: jax.Array) -> Any:
        return model.init(jax.random.key(0), images, train=False)

    def apply(params: Any, images: jax.Array) -> Any:
        return model.apply(params, images, train=False)

    params = nn.unbox(jax.eval_shape(init, images))
    program = jax.make_jaxpr(apply)(params, images)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return Profile(parameters, _multiply_adds(program.jaxpr) / 1e9)


def _multiply_adds(program: Any) -> int:
    """Returns those of the matrix products and convolutions of a program, and of its parts."""
    total = 0
    for equation in program.eqns:
        shape = equation.outvars[0].aval.shape
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += math.prod(shape) * math.prod(lengths)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, dimensions = equation.invars[1].aval, equation.params["dimension_numbers"]
            outputs = kernel.shape[dimensions.rhs_spec[0]]
            total += math.prod(shape) * math.prod(kernel.shape) // outputs
        for value in equation.params.values():
            part = getattr(value, "jaxpr", value)
            total += _multiply_adds(part) if hasattr(part, "eqns") else 0
    return total
