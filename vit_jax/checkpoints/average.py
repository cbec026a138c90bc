"""Which variables of a run are taken: those that were trained, or their moving average."""

from vit_jax.config import Config
from vit_jax.errors import ConfigError, suggest

CHOICES = ("ema", "raw")


def takes_average(config: Config, weights: str) -> bool:
    """Return whether to take the moving average, which is the default where the run has one.

    Args:
      config: Of the run.
      weights: `ema` or `raw`, or empty.

    Raises:
      ConfigError: The run has no average, and it is asked for; or there is no such choice.
    """
    if weights and weights not in CHOICES:
        raise ConfigError("--weights", f"unknown '{weights}'; {suggest(weights, CHOICES)}")
    has_average = config.optim.ema_decay > 0
    if weights == "ema" and not has_average:
        raise ConfigError(
            "--weights", "the run has no average (optim.ema_decay is 0); leave it out"
        )
    return has_average and weights != "raw"


def describe(config: Config, weights: str) -> str:
    """Return which variables are taken, where a run has both; else nothing."""
    if not config.optim.ema_decay > 0:
        return ""
    if takes_average(config, weights):
        return "the average of the weights; --weights=raw takes them as they were trained"
    return "the weights as they were trained, not their average"
