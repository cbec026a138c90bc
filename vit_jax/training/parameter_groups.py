"""Parameters by name: which of them train, how fast, and which decay.

Rules are (pattern, multiplier): the first whose pattern matches the whole name counts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import optax

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick
from vit_jax.models.families import FIRST, LAST, Family

Params = Any


def decay_multipliers(config: config_lib.Optim, params: Params) -> dict[str, float]:
    """Return the multiplier of the weight decay of each parameter.

    Raises:
      ConfigError: A parameter without a rule, or a rule that matches none.
    """
    return _multipliers(config.decay_rules, parameter_names(params), "config.optim.decay_rules")


def rate_multipliers(config: config_lib.Optim, params: Params, family: Family) -> dict[str, float]:
    """Return the multiplier of the learning rate of each parameter: its rule's, by its layer's.

    With layer decay (Clark et al. 2020, section 3.2, and later BEiT) that of the head and the last
    norm is 1, that of the last block `layer_decay`, and that of the embeddings the smallest.

    Raises:
      ConfigError: A parameter without a rule, or a rule that matches none; with layer decay, a
        parameter without a layer.
    """
    names = parameter_names(params)
    rules = _multipliers(config.rate_rules, names, "config.optim.rate_rules")
    if config.layer_decay == 1.0:
        return rules
    layers = layers_of(names, family)
    top = max(layers.values())
    return {name: rules[name] * config.layer_decay ** (top - layers[name]) for name in names}


def layers_of(names: Sequence[str], family: Family) -> dict[str, int]:
    """Return the layer of each parameter: 0 for embeddings, then each block, then all the rest.

    Raises:
      ConfigError: A parameter that the family does not know.
    """
    positions = {name: family.layer_key(name) for name in names}
    ranks = {p: i for i, p in enumerate(sorted({FIRST, LAST, *positions.values()}))}
    return {name: ranks[position] for name, position in positions.items()}


def _multipliers(
    given: Sequence[tuple[str, float]], names: Sequence[str], path: str
) -> dict[str, float]:
    """Return for each name the multiplier of the first rule that matches it."""
    rules = [(_compile(pattern, names, path), factor) for pattern, factor in given]
    matches = {name: [f for pattern, f in rules if pattern.fullmatch(name)] for name in names}
    uncovered = [name for name, factors in matches.items() if not factors]
    if uncovered:
        raise ConfigError(path, f"no rule for {_some(uncovered)}; end with ('.*', NUMBER)")
    return {name: factors[0] for name, factors in matches.items()}


TUNES = {"all": re.compile(".*"), "head": re.compile("head.*/.*")}


def trainable(config: config_lib.Optim, params: Params) -> Params:
    """Return True for each parameter that trains: in what `tune` names, and not in `freeze`.

    Raises:
      ConfigError: A pattern that is not valid or that no parameter matches.
    """
    tuned = pick(TUNES, config.tune, "config.optim.tune")
    path = "config.optim.freeze"
    names = parameter_names(params)
    frozen = [_compile(pattern, names, path) for pattern in config.freeze]
    is_trained = [
        bool(tuned.fullmatch(name)) and not any(pattern.fullmatch(name) for pattern in frozen)
        for name in names
    ]
    if not any(is_trained):
        raise ConfigError(path, "every parameter is frozen; nothing is left to train")
    return jax.tree.unflatten(jax.tree.structure(params), is_trained)


def moving(collections: Mapping[str, Any], trains: Params) -> Any:
    """Return False for each array of a layer whose parameters are all frozen, True for others.

    Args:
      collections: The collections besides `params`, such as statistics of batches.
      trains: The result of `trainable`.
    """
    trained = flax.traverse_util.flatten_dict(trains)

    def moves(path: tuple[Any, ...]) -> bool:
        layer = tuple(key.key for key in path[1:-1])
        inside = [train for name, train in trained.items() if name[: len(layer)] == layer]
        return any(inside) or not inside

    return jax.tree_util.tree_map_with_path(lambda path, _: moves(path), collections)


def parameter_names(params: Params) -> list[str]:
    """Return the names of the parameters, such as `blocks_0/attn/qkv/kernel`, in tree order."""
    return [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def name_of(path: tuple[Any, ...]) -> str:
    """Return the name of a parameter from its path in the tree."""
    return "/".join(str(key.key) for key in path)


def _compile(pattern: str, names: Sequence[str], path: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(path, f"'{pattern}' is not a regular expression: {error}") from error
    if not any(compiled.fullmatch(name) for name in names):
        raise ConfigError(path, f"'{pattern}' matches no parameter; they are {_some(names)}")
    return compiled


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def per_parameter(
    function: Callable[[jax.Array, str, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Return the transformation `(update, name, parameter) -> update` of each parameter."""

    def apply(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        return function(update, name_of(path), param)

    return optax.stateless(lambda u, p: jax.tree_util.tree_map_with_path(apply, u, p))
