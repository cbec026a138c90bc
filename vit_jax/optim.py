"""Optimizers, and which parameters decay, which train, and how fast.

`make` returns a transformation without a learning rate: the step multiplies by `-schedule(step)`,
so that the rate is a function of the step alone, whatever was skipped.

Weight decay is decoupled for all of them: in a step a parameter loses learning rate x weight decay
of itself, as with optax.adamw and torch.optim.AdamW. `weight_decay` translates other conventions.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick

Params = Any

# From the weight decay and learning rate of another code to ours.
CONVENTIONS: dict[str, Callable[[float, float], float]] = {
    # x <- x - schedule * (rate * direction + decay * x): the rate does not multiply the decay.
    "big_vision": lambda decay, rate: decay / rate,
    # The name of an AugReg checkpoint (`wd_0.1`) and torch.optim.AdamW are as here.
    "augreg": lambda decay, rate: decay,
    "torch": lambda decay, rate: decay,
}


def weight_decay(value: float, convention: str, learning_rate: float) -> float:
    """Returns `config.optim.weight_decay` for the number that another code calls weight decay.

        weight_decay(1e-4, "big_vision", 1e-3)  # 0.1

    Args:
      value: The number there.
      convention: Whose it is: `big_vision`, `augreg` or `torch` (AdamW; its SGD adds the decay to
        the gradient, before the momentum, and has no equivalent here).
      learning_rate: The base learning rate there.

    Raises:
      ConfigError: An unknown convention.
    """
    return pick(CONVENTIONS, convention, "weight_decay")(value, learning_rate)


def make(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Returns what turns gradients into a direction.

    Args:
      config: The optimizer's section.
      params: The parameters, abstract or not; only their names and shapes count.

    Raises:
      ConfigError: An unknown name, a pattern that is not valid or matches nothing, or parameters
        that no rule covers.
    """
    pick(MOMENT_DTYPES, config.moment_dtype, "config.optim.moment_dtype")
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(pick(OPTIMIZERS, config.name, "config.optim.name")(config, params))
    rates = rate_multipliers(config, params)
    if set(rates.values()) != {1.0}:
        parts.append(_per_parameter(lambda update, name, param: update * rates[name]))
    transform = optax.chain(*parts)
    trains = trainable(config, params)
    if all(jax.tree.leaves(trains)):
        return transform
    labels = jax.tree.map(lambda train: "train" if train else "freeze", trains)
    return optax.partition({"train": transform, "freeze": optax.set_to_zero()}, labels)


MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _sgd(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(config.momentum, accumulator_dtype=MOMENT_DTYPES[config.moment_dtype]),
        _decay(config, params),
    )


def _adam(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype)


def _adamw(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    return optax.chain(_adam(config, params), _decay(config, params))


def _lamb(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Adam's direction with the decay, as long as the parameter (You et al. 2020, algorithm 2).

    What does not decay keeps Adam's length, as in the authors', NVIDIA's and timm's code.
    """
    factors = decay_multipliers(config, params)

    def decays(tree: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: factors[_name(path)] > 0, tree)

    return optax.chain(_adamw(config, params), optax.masked(optax.scale_by_trust_ratio(), decays))


def _lion(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """The sign of the momentum (Chen et al. 2023); wants a lower rate and a higher decay."""
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.chain(
        optax.scale_by_lion(config.b1, config.b2, mu_dtype=dtype), _decay(config, params)
    )


def _adafactor(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Factored second moments with momentum, as "Scaling Vision Transformers" trains.

    No scaling by the parameters; the second moment's decay is at most b2 (Zhai et al. 2022,
    section 3.3).
    """

    def decay_rate(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(config.b2, 1.0 - (step + 1.0) ** -exponent)

    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=decay_rate),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.b1, debias=False, accumulator_dtype=dtype),
        _decay(config, params),
    )


def _muon(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Orthogonal momentum for the matrices of the blocks, AdamW for the rest (Jordan et al. 2024).

    The matrices' updates have the size of Adam's (Liu et al. 2025, section 2.2), so that one
    learning rate serves both. Queries, keys and values are matrices of their own.
    """
    direction = optax.contrib.muon(
        -1.0,  # optax descends; the step does here
        beta=config.momentum,
        mu_dtype=MOMENT_DTYPES[config.moment_dtype],
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )
    return optax.chain(direction, _decay(config, params))


def _matrices(params: Params) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _matrix(_name(path), leaf.ndim), params
    )


def _matrix(name: str, ndim: int) -> optax.contrib.MuonDimensionNumbers | None:
    """Returns which axes of a parameter are those of a matrix, if it is one of the blocks'."""
    if not re.fullmatch(r"(blocks|stages|merge)_.*/kernel", name):
        return None
    if re.fullmatch(r".*/(qkv|q|kv)/kernel", name):  # width, which of them, heads, channels
        return optax.contrib.MuonDimensionNumbers(0, (2, 3))
    if name.endswith("/out/kernel"):  # heads, channels, width
        return optax.contrib.MuonDimensionNumbers((0, 1), 2)
    return optax.contrib.MuonDimensionNumbers(0, 1) if ndim == 2 else None


OPTIMIZERS: dict[str, Callable[[config_lib.Optim, Params], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
}


def _decay(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Adds each parameter to its direction, times the weight decay and its rule's multiplier."""
    factors = decay_multipliers(config, params)
    return _per_parameter(
        lambda update, name, param: update + config.weight_decay * factors[name] * param
    )


def _per_parameter(
    function: Callable[[jax.Array, str, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Returns the transformation `(update, name, parameter) -> update` of each parameter."""

    def apply(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        return function(update, _name(path), param)

    return optax.stateless(lambda u, p: jax.tree_util.tree_map_with_path(apply, u, p))


def decay_multipliers(config: config_lib.Optim, params: Params) -> dict[str, float]:
    """Returns the multiplier of the weight decay of each parameter.

    Raises:
      ConfigError: A parameter without a rule, or a rule that matches none.
    """
    return _multipliers(config.decay_rules, parameter_names(params), "config.optim.decay_rules")


def rate_multipliers(config: config_lib.Optim, params: Params) -> dict[str, float]:
    """Returns the multiplier of the learning rate of each parameter: its rule's, by its layer's.

    With layer decay (Clark et al. 2020, section 3.2, and later BEiT) that of the head and the last
    norm is 1, that of the last block `layer_decay`, and that of the embeddings the smallest.

    Raises:
      ConfigError: A parameter without a rule, or a rule that matches none.
    """
    names = parameter_names(params)
    rules = _multipliers(config.rate_rules, names, "config.optim.rate_rules")
    layers = layers_of(names)
    top = max(layers.values())
    return {name: rules[name] * config.layer_decay ** (top - layers[name]) for name in names}


def ascend(params: Params, grads: Params, radius: float) -> Params:
    """Returns the parameters a step of the given length up the gradient.

    There the gradient of sharpness-aware minimization is taken (Foret et al. 2021, eq. 2).
    """
    scale = radius / (optax.tree.norm(grads) + 1e-12)
    return jax.tree.map(lambda p, g: p + scale * g, params, grads)


# What comes before the first block.
EMBEDDINGS = ("stem", "stem_norm", "posemb", "cls_token", "dist_token", "registers")


def layers_of(names: Sequence[str]) -> dict[str, int]:
    """Returns the layer of each parameter: 0 for embeddings, then each block, then all the rest.

    What merges patches belongs to the block after it.
    """
    found = {name: re.match(r"(?:blocks|stages|(merge))_(\d+)(?:_(\d+))?", name) for name in names}
    places = {}
    for name, match in found.items():
        if match and match[1]:
            places[name] = (int(match[2]) + 1, 0)
        elif match:
            places[name] = (int(match[2]), int(match[3] or 0))
    numbers = {place: i for i, place in enumerate(sorted(set(places.values())), 1)}
    top = len(numbers) + 1
    return {
        name: numbers[places[name]]
        if name in places
        else (0 if name.split("/")[0] in EMBEDDINGS else top)
        for name in names
    }


def _multipliers(
    given: Sequence[tuple[str, float]], names: Sequence[str], path: str
) -> dict[str, float]:
    """Returns for each name the multiplier of the first rule that matches it."""
    rules = [(_compile(pattern, names, path), factor) for pattern, factor in given]
    found = {name: [f for pattern, f in rules if pattern.fullmatch(name)] for name in names}
    bare = [name for name, factors in found.items() if not factors]
    if bare:
        raise ConfigError(path, f"no rule for {_some(bare)}; end with ('.*', NUMBER)")
    return {name: factors[0] for name, factors in found.items()}


TUNES = {"all": re.compile(".*"), "head": re.compile("head.*/.*")}


def trainable(config: config_lib.Optim, params: Params) -> Params:
    """Returns True for each parameter that trains: in what `tune` names, and not in `freeze`.

    Raises:
      ConfigError: A pattern that is not valid or that no parameter matches.
    """
    tuned = pick(TUNES, config.tune, "config.optim.tune")
    path = "config.optim.freeze"
    names = parameter_names(params)
    patterns = [_compile(pattern, names, path) for pattern in config.freeze]
    train = [
        bool(tuned.fullmatch(name)) and not any(p.fullmatch(name) for p in patterns)
        for name in names
    ]
    if not any(train):
        raise ConfigError(path, "every parameter is frozen; nothing is left to train")
    return jax.tree.unflatten(jax.tree.structure(params), train)


def parameter_names(params: Params) -> list[str]:
    """Returns the names of the parameters, such as `blocks_0/attn/qkv/kernel`, in tree order."""
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _name(path: tuple[Any, ...]) -> str:
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
