"""Optimizers, by name.

`make_optimizer` returns a transformation without a learning rate: the step multiplies by
`-schedule(step)`, so that the rate is a function of the step alone, whatever was skipped.

Weight decay is decoupled for all of them: in a step a parameter loses learning rate x weight decay
of itself, as with optax.adamw and torch.optim.AdamW. `weight_decay` translates other conventions.
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

# From the weight decay and learning rate of another code to ours.
CONVENTIONS: dict[str, Callable[[float, float], float]] = {
    # x <- x - schedule * (rate * direction + decay * x): the rate does not multiply the decay.
    "big_vision": lambda decay, rate: decay / rate,
    # The name of an AugReg checkpoint (`wd_0.1`) and torch.optim.AdamW are as here.
    "augreg": lambda decay, rate: decay,
    "torch": lambda decay, rate: decay,
}


def weight_decay(value: float, convention: str, learning_rate: float) -> float:
    """Return `config.optim.weight_decay` for the number that another code calls weight decay.

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


def make_optimizer(
    config: config_lib.Optim, params: Params, family: Family
) -> optax.GradientTransformation:
    """Return the optax transformation, without the learning rate.

    Args:
      config: The optimizer's section.
      params: The parameters, abstract or not; only their names and shapes count.
      family: Of the model whose parameters they are.

    Raises:
      ConfigError: An unknown name, a pattern that is not valid or matches nothing, or parameters
        that no rule covers, be it of the config or of the family.
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
        _decay(config, params),
    )


def _adam(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype)


def _adamw(
    config: config_lib.Optim, params: Params, family: Family
) -> optax.GradientTransformation:
    return optax.chain(_adam(config, params, family), _decay(config, params))


def _lamb(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    """Adam's direction with the decay, as long as the parameter (You et al. 2020, algorithm 2).

    What does not decay keeps Adam's length, as in the authors', NVIDIA's and timm's code.
    """
    factors = decay_multipliers(config, params)

    def decays(tree: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: factors[name_of(path)] > 0, tree)

    return optax.chain(
        _adamw(config, params, family), optax.masked(optax.scale_by_trust_ratio(), decays)
    )


def _lion(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    """The sign of the momentum (Chen et al. 2023); wants a lower rate and a higher decay."""
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.chain(
        optax.scale_by_lion(config.b1, config.b2, mu_dtype=dtype), _decay(config, params)
    )


def _adafactor(
    config: config_lib.Optim, params: Params, family: Family
) -> optax.GradientTransformation:
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


def _muon(config: config_lib.Optim, params: Params, family: Family) -> optax.GradientTransformation:
    """Orthogonal momentum for the matrices of the blocks, AdamW for the rest (Jordan et al. 2024).

    The matrices' updates have the size of Adam's (Liu et al. 2025, section 2.2), so that one
    learning rate serves both. Queries, keys and values are matrices of their own.
    """

    def dimensions(path: tuple[Any, ...], leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        axes = family.matrix(name_of(path), leaf.ndim)
        return axes and optax.contrib.MuonDimensionNumbers(*axes)

    direction = optax.contrib.muon(
        -1.0,  # optax descends; the step does here
        beta=config.momentum,
        mu_dtype=MOMENT_DTYPES[config.moment_dtype],
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=lambda tree: jax.tree_util.tree_map_with_path(
            dimensions, tree
        ),
        consistent_rms=0.2,
    )
    return optax.chain(direction, _decay(config, params))


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


def _decay(config: config_lib.Optim, params: Params) -> optax.GradientTransformation:
    """Add each parameter to its direction, times the weight decay and its rule's multiplier."""
    factors = decay_multipliers(config, params)
    return per_parameter(
        lambda update, name, param: update + config.weight_decay * factors[name] * param
    )


def sam_perturb(params: Params, grads: Params, radius: float) -> Params:
    """Return the parameters moved up the gradient by `radius`, in the global norm.

    There the gradient of sharpness-aware minimization is taken (Foret et al. 2021, eq. 2).
    """
    scale = radius / (optax.tree.norm(grads) + 1e-12)
    return jax.tree.map(lambda p, g: p + scale * g, params, grads)
