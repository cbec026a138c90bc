"""Parameters and GFLOPs of a model, counted in its jaxpr without running it."""

import dataclasses
import functools
import math
from collections.abc import Hashable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models import products
from vit_jax.models.layers.blocks import Block
from vit_jax.models.layers.resnet import Bottleneck

# Modules that a model repeats. Equal ones, on inputs of the same shape, are traced once.
REPEATED = (Block, Bottleneck)

# Fields of a module that do not change its cost.
_WITHOUT_COST = {"name", "parent"}


@dataclasses.dataclass(frozen=True)
class Profile:
    """Number of parameters and compute cost of a model.

    As in papers, a GFLOP is a billion multiply-adds: a multiplication and an addition count as one.
    Matrix products, including those of attention, and convolutions are counted; nothing else is.
    """

    parameters: int
    gflops: float  # billions of multiply-adds for one image


def profile(model: nn.Module, image_size: tuple[int, int] = (224, 224)) -> Profile:
    """Return the parameters and the GFLOPs of a model for one RGB image.

    Args:
      model: The model.
      image_size: Height and width in pixels.

    Raises:
      ValueError: The stride of the model does not divide the image size.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    with products.in_plain_form():
        cost = _measure(model, (images,), {"train": False})
    return Profile(cost.parameters, cost.multiply_adds / 1e9)


@dataclasses.dataclass(frozen=True)
class _Cost:
    parameters: int
    multiply_adds: int
    shapes: tuple[Any, ...]  # of the arrays of its output
    structure: Any  # the tree of these arrays


_costs: dict[Hashable, _Cost] = {}


def _measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Cost:
    """Return the cost of calling a module; that of an equal call is looked up."""
    leaves, structure = jax.tree.flatten((args, kwargs))
    leaves = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf
        for leaf in leaves
    ]
    fields = [
        (field.name, _comparable(getattr(module, field.name)))
        for field in dataclasses.fields(module)
        if field.name not in _WITHOUT_COST
    ]
    key = (type(module), *fields, structure, *leaves)
    try:
        known = _costs.get(key)
    except TypeError:  # A field holds a list or an array, which cannot be compared.
        return _trace(module, leaves, structure)
    if known is None:
        known = _costs[key] = _trace(module, leaves, structure)
    return known


def _comparable(value: Any) -> Any:
    """Return the value of a field; partial functions are replaced by what they hold."""
    if not isinstance(value, functools.partial):
        return value
    # All odd blocks have the same cost, and so have all even ones: see `Attention.block`.
    keywords = {
        key: item % 2 if key == "block" else _comparable(item)
        for key, item in value.keywords.items()
        if key not in _WITHOUT_COST
    }
    items = tuple(sorted(keywords.items(), key=lambda item: item[0]))
    return (_comparable(value.func), *map(_comparable, value.args), items)


def _trace(module: nn.Module, leaves: list[Any], structure: Any) -> _Cost:
    """Return the cost of calling a module; repeated modules inside it are measured on their own.

    Args:
      module: The module.
      leaves: Its arguments as leaves; of arrays, their shapes and dtypes.
      structure: The tree of the leaves, `(args, kwargs)`.
    """
    module = module.clone(parent=None, name=None)
    repeated: list[_Cost] = []
    measuring = False  # an interceptor also sees the modules inside those that are measured apart

    def measure_apart(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal measuring
        inner = context.module
        is_repeated = isinstance(inner, REPEATED) and context.method_name == "__call__"
        if measuring or not inner.path or not is_repeated:
            return next_fun(*args, **kwargs)
        measuring = True
        try:
            cost = _measure(inner, args, kwargs)
        finally:
            measuring = False
        repeated.append(cost)
        return cost.structure.unflatten(jnp.zeros(x.shape, x.dtype) for x in cost.shapes)

    trees: list[Any] = []
    is_array = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

    def init(arrays: list[Any]) -> Any:
        rest = iter(arrays)
        pairs = zip(leaves, is_array, strict=True)
        args, kwargs = structure.unflatten(next(rest) if yes else leaf for leaf, yes in pairs)
        output, variables = module.init_with_output(jax.random.key(0), *args, **kwargs)
        trees.append(jax.tree.structure(output))
        params = nn.unbox(variables.get("params", {}))
        return jax.tree.leaves(params), jax.tree.leaves(output)

    arrays = [leaf for leaf, yes in zip(leaves, is_array, strict=True) if yes]
    with nn.intercept_methods(measure_apart):
        program, (params, outputs) = jax.make_jaxpr(init, return_shape=True)(arrays)
    # The equations that the initial parameters need are no part of the forward pass.
    _, forward = products.split(program.jaxpr.eqns, program.jaxpr.outvars[: len(params)])
    return _Cost(
        sum(math.prod(param.shape) for param in params) + sum(cost.parameters for cost in repeated),
        sum(map(products.of_equation, forward)) + sum(cost.multiply_adds for cost in repeated),
        tuple(outputs),
        trees[0],
    )
