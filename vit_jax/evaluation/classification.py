"""The classification evaluator: top-1 and top-5 accuracy, and the loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.data import transforms
from vit_jax.errors import ConfigError, pick
from vit_jax.evaluation.losses import LOSSES
from vit_jax.evaluation.predictions import Outputs, PredictionEvaluator
from vit_jax.evaluation.statistics.intervals import Interval, wilson

Sums = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Classification(PredictionEvaluator):
    """Top-1 and top-5 accuracy, and the training loss of the run without label smoothing.

    Args:
      model: The model.
      config: The config of the run.

    Raises:
      ConfigError: The objective has no loss, or the loss is unknown.
    """

    model: nn.Module
    config: config_lib.Config

    score: ClassVar[str] = "top1"
    maximize: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if "loss" not in self.config.objective:
            problem = f"the objective {self.config.objective['name']} has no classification loss"
            raise ConfigError("config.eval.evaluators", f"classification: {problem}")
        pick(LOSSES, self.config.objective["loss"], "config.objective.loss")

    @property
    def loss(self) -> str:
        """The loss of the run's objective."""
        return self.config.objective["loss"]

    def zeros(self) -> Sums:
        """Return the sums over no images."""
        return {
            "top1": jnp.zeros((), jnp.int32),
            "top5": jnp.zeros((), jnp.int32),
            "loss": jnp.zeros((), jnp.float32),
            "count": jnp.zeros((), jnp.int32),
        }

    def outputs(self, variables: Mapping[str, Any], batch: Mapping[str, Array]) -> Outputs:
        """Return the logits and the pooled features for the rows of a batch."""
        data = self.config.data
        images = transforms.normalize(batch["image"], data.mean, data.std)
        output = models.forward(self.model, variables, images)
        return Outputs(output.logits, output.features)

    def total(self, outputs: Outputs, batch: Mapping[str, Array]) -> Sums:
        """Return the sums over the images of a batch."""
        targets = jax.nn.one_hot(batch["label"], outputs.logits.shape[-1])
        losses = LOSSES[self.config.objective["loss"]](outputs.logits, targets)
        return sums(outputs.logits, batch["label"], losses, batch["mask"])

    def means(self, totals: Mapping[str, Any]) -> dict[str, float | int]:
        """Return the means of top1, top5 (both from 0 to 1) and loss, and the number of images."""
        count = int(totals["count"])
        result: dict[str, float | int] = {
            key: float(totals[key]) / count for key in ("top1", "top5", "loss")
        }
        return {**result, "count": count}

    def intervals(self, result: Mapping[str, float]) -> dict[str, Interval]:
        """Return Wilson's 95 % intervals of both accuracies."""
        return accuracy_intervals(result)

    def format(self, result: Mapping[str, float]) -> str:
        """Return the metrics as text, with the interval of the top-1 accuracy in percent."""
        return format_metrics(result)


def accuracy_intervals(result: Mapping[str, float]) -> dict[str, Interval]:
    """Return Wilson's 95 % intervals of `top1` and `top5`.

    Args:
      result: The metrics: `top1`, `top5` (both from 0 to 1), `loss` and `count`.
    """
    count = int(result["count"])
    return {key: wilson(round(result[key] * count), count) for key in ("top1", "top5")}


def format_metrics(result: Mapping[str, float]) -> str:
    """Return metrics as text, with the interval of the top-1 accuracy in percent.

    Args:
      result: The metrics; see `accuracy_intervals`.
    """
    low, high = accuracy_intervals(result)["top1"]
    top1 = f"top-1 {result['top1']:.2%} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{top1}  top-5 {result['top5']:.2%}  loss {result['loss']:.4f}"


def sums(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    losses: Float[Array, " b"],
    mask: Bool[Array, " b"],
) -> Sums:
    """Return the sums over the images of a batch; the counts are exact integers.

    An image whose logits are not all finite counts as wrong.

    Args:
      logits: The logits of the images.
      labels: The class of each image.
      losses: The loss of each image.
      mask: True for rows that hold an image.
    """
    _, top = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = jnp.equal(top, labels[:, None]) & (mask & jnp.isfinite(logits).all(axis=-1))[:, None]
    return {
        "top1": jnp.sum(hits[:, :1], dtype=jnp.int32),
        "top5": jnp.sum(hits, dtype=jnp.int32),
        "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
        "count": jnp.sum(mask, dtype=jnp.int32),
    }
