"""Choose between the trained weights of a run and their exponential moving average (EMA)."""

from vit_jax.config import Config
from vit_jax.errors import ConfigError, suggest

CHOICES = ("ema", "raw")


def takes_average(config: Config, weights: str) -> bool:
    """Return whether to use the EMA of the weights. It is the default if the run has one.

    Args:
      config: The config of the run.
      weights: `ema`, `raw`, or an empty string for the default.

    Raises:
      ConfigError: `weights` is `ema` and the run has no EMA, or `weights` is another word.
    """
    if weights and weights not in CHOICES:
        raise ConfigError("--weights", f"unknown '{weights}'; {suggest(weights, CHOICES)}")
    has_average = config.optim.ema_decay > 0
    if weights == "ema" and not has_average:
        raise ConfigError(
            "--weights", "the run has no average (optim.ema_decay is 0); leave it out"
        )
    return has_average and weights != "raw"


def kind(config: Config, weights: str) -> str:
    """Return which weights are used, `ema` or `raw`; empty for a run with one set of weights.

    Args:
      config: The config of the run.
      weights: `ema`, `raw`, or an empty string for the default.
    """
    if not config.optim.ema_decay > 0:
        return ""
    return "ema" if takes_average(config, weights) else "raw"


def describe(config: Config, weights: str) -> str:
    """Return one line on which weights are used, or an empty string if the run has no EMA."""
    if not config.optim.ema_decay > 0:
        return ""
    if takes_average(config, weights):
        return "the average of the weights (EMA); --weights=raw uses the raw weights"
    return "the raw weights, not their average (EMA)"
