"""Matrix products and convolutions, counted in the jaxpr of a function without running it."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    get_abstract_mesh,
    use_abstract_mesh,
)

_CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")


@contextlib.contextmanager
def in_plain_form() -> Iterator[None]:
    """Trace for CPUs and without sharding, so that no fused kernel and no shard hides products."""
    # JAX refuses a mesh of another size than that in context.
    sizes = get_abstract_mesh().shape or {"data": 1}
    auto = (AxisType.Auto,) * len(sizes)
    cpus = AbstractMesh(tuple(sizes.values()), tuple(sizes), auto, abstract_device=_CPU)
    with use_abstract_mesh(cpus), nn.logical_axis_rules(()):
        yield


def multiply_adds(jaxpr: Any) -> int:
    """Return the multiply-adds of the products that the results of a jaxpr need.

    The body of a scan counts once per iteration, that of a while loop once. Of branches, the most
    expensive one counts.
    """
    needed, _ = split(jaxpr.eqns, jaxpr.outvars)
    return sum(map(of_equation, needed))


def split(equations: Sequence[Any], results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the equations of a jaxpr that some of its variables need, and the others."""
    wanted = {id(result) for result in results}
    needed, others = [], []
    for equation in reversed(equations):
        if any(id(variable) in wanted for variable in equation.outvars):
            wanted.update(map(id, equation.invars))
            needed.append(equation)
        else:
            others.append(equation)
    return needed, others


def of_equation(equation: Any) -> int:
    """Return the multiply-adds of an equation of a jaxpr, including its nested jaxprs."""
    name, params = equation.primitive.name, equation.params
    if name in _PRODUCTS:
        return _PRODUCTS[name](equation)
    if name == "cond":
        return max(multiply_adds(branch.jaxpr) for branch in params["branches"])
    nested = (getattr(value, "jaxpr", value) for value in params.values())
    total = sum(multiply_adds(inner) for inner in nested if hasattr(inner, "eqns"))
    return total * params["length"] if name == "scan" else total


def _of_dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
    return math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)


def _of_convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    dimensions = equation.params["dimension_numbers"]
    outputs = math.prod(equation.outvars[0].aval.shape)
    # The gradient of a strided convolution has zeros between its inputs.
    dilation = math.prod(equation.params["lhs_dilation"])
    return outputs * math.prod(kernel) // (kernel[dimensions.rhs_spec[0]] * dilation)


_PRODUCTS = {"dot_general": _of_dot, "conv_general_dilated": _of_convolution}
