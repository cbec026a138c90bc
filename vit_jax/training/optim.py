"""Optimizers, by name.

`make_optimizer` returns an optax transformation without the learning rate. The training step
multiplies its result by `-schedule(step)`. So the learning rate depends only on the step, even
after skipped steps.

Weight decay is decoupled in all optimizers: each step subtracts learning rate x weight decay x
parameter, as optax.adamw and torch.optim.AdamW do. `weight_decay` converts other conventions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from vit_jax import config as config_lib
from vit_jax.errors import pick
from vit_jax.models.families import Family
from vit_jax.training.parameter_groups import (
    decay_multipliers,
    name_of,
    per_parameter,
    rate_multipliers,
    trainable,
)

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
    config: config_lib.Optim, params: Params, family: Family
) -> optax.GradientTransformation:
    """Return the optax transformation, without the learning rate.

    Args:
      config: The `optim` section of the config.
      params: The parameters, or their shapes.
      family: The model family, which knows the order of the layers and the matrices for Muon.

    Raises:
      ConfigError: The optimizer is unknown, a pattern is invalid or matches no parameter, or a
        parameter matches no rule.
    """
    pick(MOMENT_DTYPES, config.moment_dtype, "config.optim.moment_dtype")
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(pick(OPTIMIZERS, config.name, "config.optim.name")(config, params, family))
    rates = rate_multipliers(config, params, family)
    if set(rates.values()) != {1.0}:
        parts.append(per_parameter(lambda update, name, param: update * rates[name]))
    transform = optax.chain(*parts)
    is_trained = trainable(config, params)
    if all(jax.tree.leaves(is_trained)):
        return transform
    labels = jax.tree.map(lambda trains: "train" if trains else "freeze", is_trained)
    return optax.partition({"train": transform, "freeze": optax.set_to_zero()}, labels)


MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _sgd(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(config.momentum, accumulator_dtype=MOMENT_DTYPES[config.moment_dtype]),
        _add_weight_decay(config, params),
    )


def _adam(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype)


def _adamw(
    config: config_lib.Optim, params: Params, family: Family
) -> optax.GradientTransformation:
    return optax.chain(_adam(config, params, family), _add_weight_decay(config, params))


def _lamb(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    """LAMB: AdamW's update, scaled to the norm of the parameter (You et al. 2020, algorithm 2).

    Parameters without weight decay are not rescaled, as in the authors', NVIDIA's and timm's code.
    """
    factors = decay_multipliers(config, params)

    def decays(tree: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: factors[name_of(path)] > 0, tree)

    return optax.chain(
        _adamw(config, params, family), optax.masked(optax.scale_by_trust_ratio(), decays)
    )


def _lion(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    """Lion: the sign of the momentum (Chen et al. 2023, algorithm 2).

    Compared with AdamW, use a lower learning rate and a higher weight decay.
    """
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.chain(
        optax.scale_by_lion(config.b1, config.b2, mu_dtype=dtype), _add_weight_decay(config, params)
    )


def _adafactor(
    config: config_lib.Optim, params: Params, family: Family
) -> optax.GradientTransformation:
    """Adafactor with momentum, as in "Scaling Vision Transformers" (Zhai et al. 2022, section 3.3).

    Updates are not scaled by the parameters. The decay rate of the second moments is at most b2.
    """

    def decay_rate(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(config.b2, 1.0 - (step + 1.0) ** -exponent)

    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=decay_rate),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.b1, debias=False, accumulator_dtype=dtype),
        _add_weight_decay(config, params),
    )


def _muon(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, AdamW for all other parameters (Jordan et al. 2024).

    The updates of the matrices are scaled to the RMS of Adam's (Liu et al. 2025, section 2.2), so
    that both use the same learning rate. Query, key and value projections are separate matrices.
    """

    def dimensions(path: tuple[Any, ...], leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        axes = family.matrix(name_of(path), leaf.ndim)
        return axes and optax.contrib.MuonDimensionNumbers(*axes)

    direction = optax.contrib.muon(
        -1.0,  # cancels the negation in optax: the training step negates the update
        beta=config.momentum,
        mu_dtype=MOMENT_DTYPES[config.moment_dtype],
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=lambda tree: jax.tree_util.tree_map_with_path(
            dimensions, tree
        ),
        consistent_rms=0.2,
    )
    return optax.chain(direction, _add_weight_decay(config, params))


OPTIMIZERS: dict[
    str, Callable[[config_lib.Optim, Params, Family], optax.GradientTransformation]
] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
}


def _add_weight_decay(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Return the transformation that adds weight decay x multiplier x parameter to the update."""
    factors = decay_multipliers(config, params)
    return per_parameter(
        lambda update, name, param: update + config.weight_decay * factors[name] * param
    )


def sam_perturb(params: Params, grads: Params, radius: float) -> Params:
    """Return the perturbed parameters of sharpness-aware minimization (Foret et al. 2021, eq. 2).

    The perturbation is along the gradient, with the global norm `radius`.
    """
    scale = radius / (optax.tree.norm(grads) + 1e-12)
    return jax.tree.map(lambda p, g: p + scale * g, params, grads)
