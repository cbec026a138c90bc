"""Optimizers and schedules, and which parameters decay, which train.

`make` returns a schedule and a transformation without a learning rate: the step multiplies by
`-schedule(step)`, so that the rate is a function of the step alone, whatever was skipped.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick

Schedule = Callable[[jax.Array], jax.Array]
Params = Any


def make(
    config: config_lib.Optim, params: Params, total_steps: int
) -> tuple[Schedule, optax.GradientTransformation]:
    """Returns the learning rate by step, and what turns gradients into a direction.

    Args:
      config: The optimizer's section.
      params: The parameters, abstract or not; only their names count.
      total_steps: Where the schedule ends.

    Raises:
      ConfigError: An unknown name, a pattern that is not valid or matches nothing, or parameters
        that no decay rule covers.
    """
    transform = pick(OPTIMIZERS, config.name, "config.optim.name")(config, params)
    if config.clip_norm:
        transform = optax.chain(optax.clip_by_global_norm(config.clip_norm), transform)
    if config.freeze:
        labels = jax.tree.map(
            lambda train: "train" if train else "freeze", trainable(config, params)
        )
        parts = {"train": transform, "freeze": optax.set_to_zero()}
        transform = optax.partition(parts, labels)
    return schedule(config, total_steps), transform


def schedule(config: config_lib.Optim, total_steps: int) -> Schedule:
    """Returns the learning rate by step: a linear warm-up from 0, then the named decay.

    Raises:
      ConfigError: An unknown name, or a warm-up that fills the run.
    """
    if config.warmup_steps >= total_steps:
        problem = f"expected fewer than the run's {total_steps} steps, got {config.warmup_steps}"
        raise ConfigError("config.optim.warmup_steps", problem)
    decay = pick(SCHEDULES, config.schedule, "config.optim.schedule")
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    after = decay(config, total_steps - config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def _cosine(config: config_lib.Optim, steps: int) -> Schedule:
    alpha = config.end_learning_rate / config.learning_rate if config.learning_rate else 0.0
    return optax.cosine_decay_schedule(config.learning_rate, steps, alpha)


def _linear(config: config_lib.Optim, steps: int) -> Schedule:
    return optax.linear_schedule(config.learning_rate, config.end_learning_rate, steps)


def _rsqrt(config: config_lib.Optim, steps: int) -> Schedule:
    """Reciprocal square root (Zhai et al. 2022, section 3.4): 1 / sqrt(1 + step / timescale)."""
    return lambda step: config.learning_rate * (1 + step / config.timescale) ** -0.5


def _constant(config: config_lib.Optim, steps: int) -> Schedule:
    return optax.constant_schedule(config.learning_rate)


SCHEDULES = {"cosine": _cosine, "linear": _linear, "rsqrt": _rsqrt, "constant": _constant}


def _sgd(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Momentum; weight decay is part of the gradient (L2), as in the papers."""
    return optax.chain(_decay(config, params), optax.trace(config.momentum))


def _adam(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2, config.eps)


def _adamw(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    return optax.chain(_adam(config, params), _decay(config, params))


OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def _decay(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Adds each parameter to its gradient, times the weight decay and its rule's multiplier."""
    multipliers = decay_multipliers(config, params)

    def decay(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        return update + config.weight_decay * multipliers[_name(path)] * param

    return optax.stateless(lambda u, p: jax.tree_util.tree_map_with_path(decay, u, p))


def decay_multipliers(config: config_lib.Optim, params: Params) -> dict[str, float]:
    """Returns the multiplier of each parameter: that of the first rule that matches its name.

    Raises:
      ConfigError: A parameter without a rule, or a rule that matches none.
    """
    path = "config.optim.decay_rules"
    names = parameter_names(params)
    rules = [(_compile(pattern, names, path), factor) for pattern, factor in config.decay_rules]
    found = {name: [f for pattern, f in rules if pattern.fullmatch(name)] for name in names}
    bare = [name for name, factors in found.items() if not factors]
    if bare:
        raise ConfigError(path, f"no rule for {_some(bare)}; end with ('.*', 0.0)")
    return {name: factors[0] for name, factors in found.items()}


def trainable(config: config_lib.Optim, params: Params) -> Params:
    """Returns True for each parameter that trains, False for those that `freeze` names.

    Raises:
      ConfigError: A pattern that is not valid or that no parameter matches.
    """
    path = "config.optim.freeze"
    names = parameter_names(params)
    patterns = [_compile(pattern, names, path) for pattern in config.freeze]
    train = [not any(p.fullmatch(name) for p in patterns) for name in names]
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
