"""Parameters and GFLOPs of a model, counted in its jaxpr; nothing is computed."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Profile:
    """Size and cost of a model.

    `gflops` counts billions of multiply-adds for one image, as papers do: those of matrix products
    and convolutions, including attention. A multiplication with its addition counts as one.
    """

    parameters: int
    gflops: float


def profile(model: nn.Module, image_size: tuple[int, int] = (224, 224)) -> Profile:
    """Return the size and cost of a model for one RGB image.

    Args:
      model: The model.
      image_size: Height and width in pixels.

    Raises:
      ValueError: The model's stride does not divide the image size.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)

    def init(images: jax.Array) -> Any:
        return model.init(jax.random.key(0), images, train=False)

    def apply(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=False)

    variables = nn.unbox(jax.eval_shape(init, images))
    program = jax.make_jaxpr(apply)(variables, images)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return Profile(parameters, _multiply_adds(program.jaxpr) / 1e9)


def _multiply_adds(program: Any) -> int:
    """Return the multiply-adds of a jaxpr, including those of the jaxprs inside it."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            dimensions = equation.params["dimension_numbers"]
            num_outputs = kernel[dimensions.rhs_spec[0]]
            outputs = math.prod(equation.outvars[0].aval.shape)
            total += outputs * math.prod(kernel) // num_outputs
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _multiply_adds(inner)
    return total
