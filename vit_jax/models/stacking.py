"""Stacks: the variables of equal blocks as one tree, whose arrays have a leading axis of layers.

A model applies the blocks of a stack by a scan, so that the program holds them once:

    stacks = find_stacks(model)              # {"blocks_0_to_blocks_11": ("blocks_0", ...)}
    variables = stack(variables, stacks)     # params/blocks_0_to_blocks_11/attn/qkv/kernel
    variables = unstack(variables, stacks)   # params/blocks_0/attn/qkv/kernel, ...

Everything that has a name outside of the training step, such as a parameter in a checkpoint or in a
rule, has the name of its block.
"""

import itertools
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.layers.encoder import stack_name
from vit_jax.models.transformer import Transformer

# The names of the layers of each stack, in order, by the name of the stack.
Stacks = Mapping[str, tuple[str, ...]]
NO_STACKS: Stacks = types.MappingProxyType({})


def find_stacks(
    model: Transformer, group_of: Callable[[str], Hashable] = lambda name: None
) -> dict[str, tuple[str, ...]]:
    """Return the stacks of a model; without `model.scan` there are none.

    A stack holds at least two blocks. Blocks that alternate, such as those of Swin, form two
    stacks; a block that is followed by a position embedding belongs to none.

    Args:
      model: The model.
      group_of: Maps the name of a block to its group. Blocks of different groups belong to
        different stacks, which hold consecutive blocks.
    """
    stacks: dict[str, tuple[str, ...]] = {}
    if not model.scan:
        return stacks
    period = model.attention.module.period
    for names in model.block_names:
        first = 1 if model.posemb.module.site == "first_block" else 0
        for _, group in itertools.groupby(names[first:], group_of):
            run = list(group)
            length = len(run) // period * period
            if length < 2 * period:
                continue
            for start in range(period):
                layers = tuple(run[start:length:period])
                stacks[stack_name(layers)] = layers
    return stacks


def stack(tree: Any, stacks: Stacks, join: Callable[..., Any] | None = None) -> Any:
    """Return the tree with each layer's subtree replaced by that of its stack.

    Args:
      tree: A tree with dictionaries of blocks by name, such as the variables of a model or the
        state of an optimizer.
      stacks: The stacks.
      join: Maps the leaves of the layers, in order, to the leaf of the stack; by default, it stacks
        arrays along a new first axis.
    """
    join = join or (lambda *leaves: jnp.stack(leaves))

    def merge(blocks: dict[str, Any]) -> dict[str, Any]:
        merged = dict(blocks)
        for name, layers in stacks.items():
            if layers[0] in merged:
                merged[name] = jax.tree.map(join, *(merged.pop(layer) for layer in layers))
        return merged

    return _map_dicts(merge, tree, {layer for layers in stacks.values() for layer in layers})


def unstack(tree: Any, stacks: Stacks, part: Callable[[Any, int], Any] | None = None) -> Any:
    """Return the tree with each stack replaced by its layers: the inverse of `stack`.

    Args:
      tree: A tree with dictionaries of stacks by name.
      stacks: The stacks.
      part: Maps the leaf of a stack and the index of a layer to the leaf of the layer; by default,
        it indexes the first axis of arrays.
    """
    part = part or (lambda leaf, index: leaf[index])

    def split(blocks: dict[str, Any]) -> dict[str, Any]:
        layers = dict(blocks)
        for name in stacks.keys() & blocks.keys():
            stacked = layers.pop(name)
            for i, layer in enumerate(stacks[name]):
                layers[layer] = jax.tree.map(lambda leaf, i=i: part(leaf, i), stacked)
        return layers

    return _map_dicts(split, tree, set(stacks))


def names_in(name: str, stacks: Stacks) -> tuple[str, ...]:
    """Return the names of the arrays that an array holds: one per layer if it is of a stack.

    Args:
      name: Name of the array, such as `blocks_0_to_blocks_11/attn/qkv/kernel` or `head/kernel`.
      stacks: The stacks.
    """
    first, separator, rest = name.partition("/")
    return tuple(f"{layer}{separator}{rest}" for layer in stacks.get(first, (first,)))


def _map_dicts(function: Callable[[dict[str, Any]], Any], tree: Any, names: set[str]) -> Any:
    """Apply the function to the dictionaries in a tree that have one of these keys."""

    def has_name(node: Any) -> bool:
        return isinstance(node, dict) and not names.isdisjoint(node)

    return jax.tree.map(lambda n: function(n) if has_name(n) else n, tree, is_leaf=has_name)
