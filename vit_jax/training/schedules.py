"""The length of a run in steps, and the learning rate schedule.

A duration of the config is given in exactly one unit: steps, epochs or images.
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
MAX_STEPS = 2**31 - 1  # the step counter is int32


@dataclasses.dataclass(frozen=True)
class Plan:
    """The number of training steps, and how many of them are warm-up and cooldown."""

    total: int
    warmup: int = 0
    cooldown: int = 0


def plan(config: config_lib.Config, num_images: int) -> Plan:
    """Return the durations of a run in steps.

    Args:
      config: The config of the run.
      num_images: Number of images per epoch.

    Raises:
      ConfigError: A duration is given in two units, the run has no duration, or warm-up and
        cooldown are longer than the run.
    """
    optim = config.optim
    units = (config.batch_size, num_images)
    whole = (config.total_steps, config.total_epochs, config.total_images)
    total = _to_steps("config.total", whole, *units)
    if total > MAX_STEPS:
        problem = f"expected at most {MAX_STEPS:,} steps, got {total:,}"
        raise ConfigError("config.total_steps", problem)
    if not total:
        fields = ", ".join(f"total_{unit}" for unit in UNITS)
        raise ConfigError("config.total_steps", f"the run has no duration; set one of {fields}")
    start = (optim.warmup_steps, optim.warmup_epochs, optim.warmup_images)
    warmup = _to_steps("config.optim.warmup", start, *units)
    end = (optim.cooldown_steps, optim.cooldown_epochs, optim.cooldown_images)
    cooldown = _to_steps("config.optim.cooldown", end, *units)
    for name, steps in (("warmup", warmup), ("cooldown", warmup + cooldown)):
        if steps >= total:
            problem = f"expected fewer than the run's {total} steps, got {steps}"
            if name == "cooldown":
                problem += ", including the warm-up"
            problem += f"; train longer, or pass a smaller --config.optim.{name}_steps"
            raise ConfigError(f"config.optim.{name}_steps", problem)
    return Plan(total, warmup, cooldown)


def _to_steps(
    path: str, duration: tuple[int | float, ...], batch_size: int, num_images: int
) -> int:
    """Convert a duration to steps; return 0 if it is not set.

    Args:
      path: The path of its fields, without the unit.
      duration: The values of its fields in steps, epochs and images; 0 if not set.
      batch_size: Images per step.
      num_images: Images per epoch.

    Raises:
      ConfigError: The duration is given in two units.
    """
    images = dict(zip(UNITS, (batch_size, num_images, 1), strict=True))  # images per unit
    given = {unit: value for unit, value in zip(UNITS, duration, strict=True) if value}
    if len(given) > 1:
        names = " and ".join(f"{path.split('.')[-1]}_{unit}" for unit in given)
        raise ConfigError(
            f"{path}_{next(iter(given))}", f"expected one unit, got {names}; set only one of them"
        )
    for unit, value in given.items():
        # Floating-point error must not lose a step: 2.01 epochs of 1,000 steps are 2,010 steps.
        return max(1, math.floor(value * images[unit] / batch_size + 1e-6))
    return 0


def make_schedule(config: config_lib.Optim, plan: Plan) -> Schedule:
    """Return the learning rate as a function of the step.

    A linear warm-up is followed by the decay `config.schedule` over the remaining steps. In the
    last `plan.cooldown` steps, the rate is also multiplied by a factor that falls linearly from 1
    to 0 (Zhai et al. 2022, section 3.4).

    Args:
      config: The `optim` section of the config.
      plan: The durations in steps.

    Raises:
      ConfigError: The schedule is unknown.
    """
    decay = pick(SCHEDULES, config.schedule, "config.optim.schedule")
    warmup = optax.linear_schedule(
        config.warmup_learning_rate, config.learning_rate, max(plan.warmup, 1)
    )
    decayed = decay(config, plan.total - plan.warmup)
    joined = optax.join_schedules([warmup, decayed], [plan.warmup])
    if not plan.cooldown:
        return joined
    return lambda step: joined(step) * jnp.clip((plan.total - step) / plan.cooldown, 0, 1)


def _cosine(config: config_lib.Optim, steps: int) -> Schedule:
    alpha = config.end_learning_rate / config.learning_rate if config.learning_rate else 0.0
    return optax.cosine_decay_schedule(config.learning_rate, steps, alpha)


def _linear(config: config_lib.Optim, steps: int) -> Schedule:
    return optax.linear_schedule(config.learning_rate, config.end_learning_rate, steps)


def _rsqrt(config: config_lib.Optim, steps: int) -> Schedule:
    """Reciprocal square root, 1 / sqrt(1 + step / timescale) (Zhai et al. 2022, section 3.4)."""
    return lambda step: config.learning_rate * (1 + step / config.timescale) ** -0.5


def _constant(config: config_lib.Optim, steps: int) -> Schedule:
    return optax.constant_schedule(config.learning_rate)


SCHEDULES: dict[str, Callable[[config_lib.Optim, int], Schedule]] = {
    "cosine": _cosine,
    "linear": _linear,
    "rsqrt": _rsqrt,
    "constant": _constant,
}
