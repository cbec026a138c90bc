"""How long a run and its parts are, in steps, and the learning rate of each step.

A duration is given in steps, epochs or images, one of the three.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, pick

Schedule = Callable[[jax.Array], jax.Array]
UNITS = ("steps", "epochs", "images")
MAX_STEPS = 2**31 - 1  # which are counted in int32


@dataclasses.dataclass(frozen=True)
class Plan:
    """The number of steps of a run, and how many of them warm up and cool down."""

    total: int
    warmup: int = 0
    cooldown: int = 0


def plan(config: config_lib.Config, num_images: int) -> Plan:
    """Return the durations of a run.

    Args:
      config: The run.
      num_images: In an epoch.

    Raises:
      ConfigError: A duration in two units, none for the run, or parts longer than the whole.
    """
    optim = config.optim
    units = (config.batch_size, num_images)
    whole = (config.total_steps, config.total_epochs, config.total_images)
    total = _steps("config.total", whole, *units)
    if total > MAX_STEPS:
        problem = f"expected at most {MAX_STEPS:,} steps, got {total:,}"
        raise ConfigError("config.total_steps", problem)
    if not total:
        known = ", ".join(f"total_{unit}" for unit in UNITS)
        raise ConfigError("config.total_steps", f"give one of {known}")
    start = (optim.warmup_steps, optim.warmup_epochs, optim.warmup_images)
    warmup = _steps("config.optim.warmup", start, *units)
    end = (optim.cooldown_steps, optim.cooldown_epochs, optim.cooldown_images)
    cooldown = _steps("config.optim.cooldown", end, *units)
    for name, steps in (("warmup", warmup), ("cooldown", warmup + cooldown)):
        if steps >= total:
            problem = f"expected fewer than the run's {total} steps, got {steps}"
            if name == "cooldown":
                problem += ", warm-up included"
            raise ConfigError(f"config.optim.{name}_steps", problem)
    return Plan(total, warmup, cooldown)


def _steps(path: str, duration: tuple[int | float, ...], batch_size: int, num_images: int) -> int:
    """Return the steps of a duration, whatever unit it is given in; 0 where it is not given.

    Args:
      path: Of its fields, without the unit.
      duration: In each unit; 0 where it is not given in that one.
      batch_size: Images a step.
      num_images: Images an epoch.
    """
    images = dict(zip(UNITS, (batch_size, num_images, 1), strict=True))  # in each unit
    given = {unit: value for unit, value in zip(UNITS, duration, strict=True) if value}
    if len(given) > 1:
        names = " and ".join(f"{path.split('.')[-1]}_{unit}" for unit in given)
        raise ConfigError(f"{path}_{next(iter(given))}", f"give one unit, got {names}")
    for unit, value in given.items():
        # The sum of roundings must not cost a step: 2.01 epochs of 1,000 steps are 2,010.
        return max(1, math.floor(value * images[unit] / batch_size + 1e-6))
    return 0


def make_schedule(config: config_lib.Optim, plan: Plan) -> Schedule:
    """Return the learning rate by step: a linear warm-up, the named decay, a linear cooldown to 0.

    The decay takes all that the warm-up leaves; the cooldown multiplies its end by 1 to 0 (Zhai et
    al. 2022, section 3.4).

    Raises:
      ConfigError: An unknown name.
    """
    decay = pick(SCHEDULES, config.schedule, "config.optim.schedule")
    warmup = optax.linear_schedule(
        config.warmup_learning_rate, config.learning_rate, max(plan.warmup, 1)
    )
    after = decay(config, plan.total - plan.warmup)
    joined = optax.join_schedules([warmup, after], [plan.warmup])
    if not plan.cooldown:
        return joined
    return lambda step: joined(step) * jnp.clip((plan.total - step) / plan.cooldown, 0, 1)


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


SCHEDULES: dict[str, Callable[[config_lib.Optim, int], Schedule]] = {
    "cosine": _cosine,
    "linear": _linear,
    "rsqrt": _rsqrt,
    "constant": _constant,
}
