"""The stacks of a training state: it has them in training, and has none in a checkpoint.

Shapes change at no cost. Arrays are copied array by array, each within its device, because no
device splits the layers of a stack. While a state is saved, its blocks are twice in memory.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.stacking import Stacks, stack, unstack
from vit_jax.training.state import TrainState


def stack_shapes(shapes: TrainState, stacks: Stacks) -> TrainState:
    """Return the shapes, dtypes and shardings of a state with its stacks."""
    return stack(shapes, stacks, _stacked)


def unstack_shapes(shapes: TrainState, stacks: Stacks) -> TrainState:
    """Return the shapes, dtypes and shardings of a state without its stacks."""
    return unstack(shapes, stacks, lambda leaf, index: _layer_of(leaf))


def stack_state(state: TrainState, stacks: Stacks) -> TrainState:
    """Return the state with its stacks. The buffers of the blocks are deleted, one by one."""

    def join(*layers: jax.Array) -> jax.Array:
        stacked = jax.jit(_join, out_shardings=_stacked(*layers).sharding)(layers)
        for layer in layers:
            layer.delete()
        return stacked

    return stack(state, stacks, join)


def unstack_state(state: TrainState, stacks: Stacks) -> TrainState:
    """Return the state without its stacks. The blocks are copies; all else is shared."""

    def part(leaf: jax.Array, index: int) -> jax.Array:
        return jax.jit(_part, out_shardings=_layer_of(leaf).sharding)(leaf, index)

    return unstack(state, stacks, part)


def _join(layers: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.stack(layers)


def _part(leaf: jax.Array, index: jax.Array) -> jax.Array:
    return leaf[index]


def _stacked(*layers: Any) -> jax.ShapeDtypeStruct:
    """Return shape, dtype and sharding of the stack of arrays."""
    first = layers[0]
    spec = jax.P(None, *first.sharding.spec)
    sharding = jax.sharding.NamedSharding(first.sharding.mesh, spec)
    return jax.ShapeDtypeStruct((len(layers), *first.shape), first.dtype, sharding=sharding)


def _layer_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return shape, dtype and sharding of a layer of an array."""
    sharding = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.P(*leaf.sharding.spec[1:]))
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=sharding)
