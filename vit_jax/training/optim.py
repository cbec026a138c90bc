"""Optimizers, by name.

`make_optimizer` returns an optax transformation without the learning rate. The training step
multiplies its result by `-schedule(step)`. So the learning rate depends only on the step, even
after skipped steps.

Weight decay is decoupled in all optimizers: each step subtracts learning rate x weight decay x
parameter, as optax.adamw and torch.optim.AdamW do. `weight_decay` converts other conventions.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick
from vit_jax.models.families import Family
from vit_jax.models.stacking import NO_STACKS, Stacks, names_in
from vit_jax.training.parameter_groups import (
    decay_multipliers,
    name_of,
    parameter_names,
    per_layer,
    per_parameter,
    rate_multipliers,
    trainable,
)
from vit_jax.training.rounding import HELD_DTYPES, round_second_moments

Params = Any

# Conversions of (weight decay, learning rate) in other code to the weight decay here.
CONVENTIONS: dict[str, Callable[[float, float], float]] = {
    # x <- x - schedule * (rate * update + decay * x): the decay is not multiplied by the rate.
    "big_vision": lambda decay, rate: decay / rate,
    # The number in the name of an AugReg checkpoint (`wd_0.1`), and that of torch.optim.AdamW.
    "augreg": lambda decay, rate: decay,
    "torch": lambda decay, rate: decay,
}


def weight_decay(value: float, convention: str, learning_rate: float) -> float:
    """Convert the weight decay of another code base to `config.optim.weight_decay`.

        weight_decay(1e-4, "big_vision", 1e-3)  # 0.1

    Args:
      value: The weight decay in the other code.
      convention: `big_vision`, `augreg` or `torch`. The last is AdamW; torch's SGD adds the decay
        to the gradient, before the momentum, and has no equivalent here.
      learning_rate: The base learning rate in the other code.

    Raises:
      ConfigError: The convention is unknown.
    """
    return pick(CONVENTIONS, convention, "weight_decay")(value, learning_rate)


def make_optimizer(
    config: config_lib.Optim,
    params: Params,
    family: Family,
    stacks: Stacks = NO_STACKS,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Return the optax transformation, without the learning rate.

    It takes parameters with or without the stacks, and does the same to each layer.

    Args:
      config: The `optim` section of the config.
      params: The parameters without stacks, or their shapes.
      family: The model family, which knows the order of the layers and the matrices for Muon.
      stacks: The stacks that the parameters may be in. The layers of a stack are either all frozen
        or all trained.
      seed: Seed of stochastic rounding.

    Raises:
      ConfigError: The optimizer is unknown or has no second moment to round, a pattern is invalid
        or matches no parameter, or a parameter matches no rule.
    """
    pick(HELD_DTYPES, config.moment_dtype, "config.optim.moment_dtype")
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    direction = pick(OPTIMIZERS, config.name, "config.optim.name")(config, params, family, stacks)
    parts.append(_in_second_moment_dtype(direction, config, seed))
    rates = rate_multipliers(config, params, family)
    if set(rates.values()) != {1.0}:
        parts.append(per_parameter(lambda update, rate, param: update * rate, rates, stacks))
    transform = optax.chain(*parts)
    is_trained = dict(
        zip(parameter_names(params), jax.tree.leaves(trainable(config, params)), strict=True)
    )
    if all(is_trained.values()):
        return transform

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        return "train" if is_trained[names_in(name_of(path), stacks)[0]] else "freeze"

    labels = functools.partial(jax.tree_util.tree_map_with_path, label)
    return optax.partition({"train": transform, "freeze": optax.set_to_zero()}, labels)


# Optimizers that hold one second moment per element of a parameter. Adafactor holds rows and
# columns, sgd and lion none.
WITH_SECOND_MOMENT = ("adam", "adamw", "lamb", "muon")


def _in_second_moment_dtype(
    direction: optax.GradientTransformation, config: config_lib.Optim, seed: int
) -> optax.GradientTransformation:
    """Return the transformation with second moments in `config.second_moment_dtype`."""
    path = "config.optim.second_moment_dtype"
    if pick(HELD_DTYPES, config.second_moment_dtype, path) == jnp.float32:
        return direction
    if config.name not in WITH_SECOND_MOMENT:
        names = ", ".join(WITH_SECOND_MOMENT)
        problem = f"expected float32, because {config.name} has no second moment per element"
        raise ConfigError(path, f"{problem}, got {config.second_moment_dtype}; {names} have one")
    return round_second_moments(direction, seed)


def _sgd(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(config.momentum, accumulator_dtype=HELD_DTYPES[config.moment_dtype]),
        _add_weight_decay(config, params, stacks),
    )


def _adam(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    dtype = HELD_DTYPES[config.moment_dtype]
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype)


def _adamw(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    return optax.chain(
        _adam(config, params, family, stacks), _add_weight_decay(config, params, stacks)
    )


def _lamb(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    """LAMB: AdamW's update, scaled to the norm of the parameter (You et al. 2020, algorithm 2).

    Parameters without weight decay are not rescaled, as in the authors', NVIDIA's and timm's code.
    """
    factors = decay_multipliers(config, params)
    trust = optax.scale_by_trust_ratio()

    def rescale(update: jax.Array, factor: Any, param: jax.Array) -> jax.Array:
        scaled, _ = trust.update(update, trust.init(param), param)
        return jnp.where(factor > 0, scaled, update)

    return optax.chain(
        _adamw(config, params, family, stacks), per_parameter(rescale, factors, stacks)
    )


def _lion(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    """Lion: the sign of the momentum (Chen et al. 2023, algorithm 2).

    Compared with AdamW, use a lower learning rate and a higher weight decay.
    """
    dtype = HELD_DTYPES[config.moment_dtype]
    return optax.chain(
        optax.scale_by_lion(config.b1, config.b2, mu_dtype=dtype),
        _add_weight_decay(config, params, stacks),
    )


def _adafactor(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    """Adafactor with momentum, as in "Scaling Vision Transformers" (Zhai et al. 2022, section 3.3).

    Updates are not scaled by the parameters. The decay rate of the second moments is at most b2.
    """

    def decay_rate(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(config.b2, 1.0 - (step + 1.0) ** -exponent)

    dtype = HELD_DTYPES[config.moment_dtype]
    return optax.chain(
        per_layer(
            optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=decay_rate), stacks
        ),
        per_layer(optax.clip_by_block_rms(1.0), stacks),
        optax.ema(config.b1, debias=False, accumulator_dtype=dtype),
        _add_weight_decay(config, params, stacks),
    )


def _muon(
    config: config_lib.Optim, params: Params, family: Family, stacks: Stacks
) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, AdamW for all other parameters (Jordan et al. 2024).

    The updates of the matrices are scaled to the RMS of Adam's (Liu et al. 2025, section 2.2), so
    that both use the same learning rate. Query, key and value projections are separate matrices.
    """

    def dimensions(path: tuple[Any, ...], leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        axes = family.matrix(names_in(name_of(path), stacks)[0], leaf.ndim)
        return axes and optax.contrib.MuonDimensionNumbers(*axes)

    direction = optax.contrib.muon(
        -1.0,  # cancels the negation in optax: the training step negates the update
        beta=config.momentum,
        mu_dtype=HELD_DTYPES[config.moment_dtype],
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=lambda tree: jax.tree_util.tree_map_with_path(
            dimensions, tree
        ),
        consistent_rms=0.2,
    )
    return optax.chain(per_layer(direction, stacks), _add_weight_decay(config, params, stacks))


OPTIMIZERS: dict[
    str, Callable[[config_lib.Optim, Params, Family, Stacks], optax.GradientTransformation]
] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
}


def _add_weight_decay(
    config: config_lib.Optim, params: Params, stacks: Stacks
) -> optax.GradientTransformation:
    """Return the transformation that adds weight decay x multiplier x parameter to the update."""
    factors = decay_multipliers(config, params)
    decays = {name: config.weight_decay * factor for name, factor in factors.items()}
    return per_parameter(lambda update, decay, param: update + decay * param, decays, stacks)


def sam_perturb(params: Params, grads: Params, radius: float) -> Params:
    """Return the perturbed parameters of sharpness-aware minimization (Foret et al. 2021, eq. 2).

    The perturbation is along the gradient, with the global norm `radius`.
    """
    scale = radius / (optax.tree.norm(grads) + 1e-12)
    return jax.tree.map(lambda p, g: p + scale * g, params, grads)
