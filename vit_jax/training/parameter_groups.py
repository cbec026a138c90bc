"""Parameter groups by name: frozen parameters, multipliers of learning rate and weight decay.

A rule is (regular expression, multiplier). The first rule that matches the whole name applies.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick
from vit_jax.models.families import FIRST, LAST, Family
from vit_jax.models.stacking import Stacks, names_in, stack, unstack

Params = Any


def decay_multipliers(config: config_lib.Optim, params: Params) -> dict[str, float]:
    """Return the weight decay multiplier of each parameter, by name.

    Raises:
      ConfigError: A parameter matches no rule, or a rule matches no parameter.
    """
    return _multipliers(config.decay_rules, parameter_names(params), "config.optim.decay_rules")


def rate_multipliers(config: config_lib.Optim, params: Params, family: Family) -> dict[str, float]:
    """Return the learning rate multiplier of each parameter, by name.

    It is the multiplier of the parameter's rule times that of its layer. With layer-wise learning
    rate decay (Clark et al. 2020, section 3.2; also BEiT), the multiplier of a layer is
    `layer_decay` to the power of the number of layers above it: 0 for the head and the last norm, 1
    for the last block, and so on down to the embeddings.

    Raises:
      ConfigError: A parameter matches no rule, a rule matches no parameter, or (with layer decay)
        the family does not know the layer of a parameter.
    """
    names = parameter_names(params)
    rules = _multipliers(config.rate_rules, names, "config.optim.rate_rules")
    if config.layer_decay == 1.0:
        return rules
    layers = layer_indices(names, family)
    top = max(layers.values())
    return {name: rules[name] * config.layer_decay ** (top - layers[name]) for name in names}


def layer_indices(names: Sequence[str], family: Family) -> dict[str, int]:
    """Return the layer index of each parameter: 0 for embeddings, then the blocks, then the head.

    Raises:
      ConfigError: The family does not know the layer of a parameter.
    """
    positions = {name: family.layer_key(name) for name in names}
    ranks = {p: i for i, p in enumerate(sorted({FIRST, LAST, *positions.values()}))}
    return {name: ranks[position] for name, position in positions.items()}


def _multipliers(
    rules: Sequence[tuple[str, float]], names: Sequence[str], path: str
) -> dict[str, float]:
    """Return the multiplier of the first matching rule for each name."""
    compiled = [(_compile(pattern, names, path), factor) for pattern, factor in rules]
    matches = {name: [f for pattern, f in compiled if pattern.fullmatch(name)] for name in names}
    uncovered = [name for name, factors in matches.items() if not factors]
    if uncovered:
        raise ConfigError(
            path, f"no rule matches {_abbreviate(uncovered)}; add ('.*', NUMBER) at the end"
        )
    return {name: factors[0] for name, factors in matches.items()}


TUNE_PATTERNS = {"all": re.compile(".*"), "head": re.compile("head.*/.*")}


def trainable(config: config_lib.Optim, params: Params) -> Params:
    """Return a tree of bools that is False for frozen parameters.

    A parameter is trained if it is in the set that `optim.tune` names and matches no pattern of
    `optim.freeze`.

    Raises:
      ConfigError: `tune` is unknown, a pattern is invalid or matches no parameter, or all
        parameters are frozen.
    """
    tuned = pick(TUNE_PATTERNS, config.tune, "config.optim.tune")
    path = "config.optim.freeze"
    names = parameter_names(params)
    frozen = [_compile(pattern, names, path) for pattern in config.freeze]
    is_trained = [
        bool(tuned.fullmatch(name)) and not any(pattern.fullmatch(name) for pattern in frozen)
        for name in names
    ]
    if not any(is_trained):
        raise ConfigError(path, "all parameters are frozen; leave some out of the patterns")
    return jax.tree.unflatten(jax.tree.structure(params), is_trained)


def updated_collections(collections: Mapping[str, Any], trains: Params) -> Any:
    """Return a tree of bools that is False for the arrays of layers with only frozen parameters.

    Args:
      collections: The model's collections besides `params`, such as batch statistics.
      trains: The result of `trainable`.
    """
    trained = flax.traverse_util.flatten_dict(trains)

    def is_updated(path: tuple[Any, ...]) -> bool:
        layer = tuple(key.key for key in path[1:-1])
        inside = [train for name, train in trained.items() if name[: len(layer)] == layer]
        return any(inside) or not inside

    return jax.tree_util.tree_map_with_path(lambda path, _: is_updated(path), collections)


def parameter_names(params: Params) -> list[str]:
    """Return the names of the parameters, such as `blocks_0/attn/qkv/kernel`, in tree order."""
    return [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def name_of(path: tuple[Any, ...]) -> str:
    """Return the name of a parameter, such as `head/kernel`, from its path in the tree."""
    return "/".join(str(key.key) for key in path)


def _compile(pattern: str, names: Sequence[str], path: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(path, f"'{pattern}' is not a regular expression: {error}") from error
    if not any(compiled.fullmatch(name) for name in names):
        raise ConfigError(
            path, f"'{pattern}' matches no parameter; the names are {_abbreviate(names)}"
        )
    return compiled


def _abbreviate(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def per_parameter(
    function: Callable[[jax.Array, Any, jax.Array], jax.Array],
    values: Mapping[str, float],
    stacks: Stacks,
) -> optax.GradientTransformation:
    """Return the stateless transformation that maps (update, value, parameter) to a new update.

    Args:
      function: The map of one parameter. In a stack, it is applied to each layer.
      values: The value of each parameter, by name.
      stacks: The stacks that the parameters may be in.
    """

    def apply(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        found = [values[name] for name in names_in(name_of(path), stacks)]
        if len(found) == 1:
            return function(update, found[0], param)
        return jax.vmap(function)(update, jnp.asarray(found), param)

    return optax.stateless(lambda u, p: jax.tree_util.tree_map_with_path(apply, u, p))


def per_layer(tx: optax.GradientTransformation, stacks: Stacks) -> optax.GradientTransformation:
    """Return the transformation that acts on each layer of a stack as on a parameter of its own.

    An elementwise transformation does so by itself. One that depends on the shape or the norm of a
    parameter does not. The transformation must treat every parameter alone.

    Args:
      tx: The transformation of parameters without stacks.
      stacks: The stacks that the parameters may be in.
    """

    def present(params: Params) -> Stacks:
        return {name: stacks[name] for name in stacks if jax.tree.leaves(params.get(name))}

    def init(params: Params) -> optax.OptState:
        found = present(params)
        return stack(tx.init(unstack(params, found)), found)

    def update(
        updates: Params, state: optax.OptState, params: Params
    ) -> tuple[Params, optax.OptState]:
        function = tx.update
        for name in present(params):
            axes = tuple(_layer_axes(tree, name) for tree in (updates, state, params))
            function = jax.vmap(function, in_axes=axes, out_axes=axes[:2])
        return function(updates, state, params)

    return optax.GradientTransformation(init, update)


def _layer_axes(tree: Any, stack: str) -> Any:
    """Return the axis of the layers of each array in a tree: 0 in the stack, None elsewhere."""
    key = jax.tree_util.DictKey(stack)
    return jax.tree_util.tree_map_with_path(lambda path, _: 0 if key in path else None, tree)
