"""Classification: the loss of the labels, averaged over the heads of the model."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.config import objective
from vit_jax.config.objective import Objective as ObjectiveSettings
from vit_jax.data import mixing
from vit_jax.data.sources import Source
from vit_jax.errors import ConfigError, DataError, pick
from vit_jax.evaluation import losses
from vit_jax.training.objectives.base import Aux, Batch, Objective, Variables


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """The loss of the labels, with label smoothing, mixup and cutmix.

    Raises:
      ConfigError: The loss or the fill of erased rectangles is unknown.
    """

    config: config_lib.Config
    model: nn.Module

    settings: ClassVar[type[ObjectiveSettings]] = objective.Classification
    evaluator: ClassVar[str] = "classification"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pick(losses.LOSSES, self.config.objective["loss"], "config.objective.loss")
        self._batch_transform()

    @property
    def loss_fn(self) -> losses.Loss:
        """The loss function: from logits and targets to one value per image."""
        return losses.LOSSES[self.config.objective["loss"]]

    @classmethod
    def complete(cls, config: config_lib.Config, source: Source) -> config_lib.Config:
        """Return the config; `num_classes=0` becomes the number of classes of the data."""
        requested = config.model["num_classes"]
        count = len(source.class_names)
        if count == 1:
            root = config.data.root
            where = f"config.data.root: {root}" if root else source.title
            raise DataError("; ".join([f"{where}: expected at least two classes", *source.notes]))
        if requested not in (0, count):
            problem = f"the data set {source.title} has {count} classes, got {requested}"
            raise ConfigError(
                "config.model.num_classes", f"{problem}; 0 infers the number from the data"
            )
        return dataclasses.replace(config, model={**config.model, "num_classes": count})

    def prepare(self, batch: Batch, key: Array) -> Batch:
        """Return normalized images, erased and mixed, and their targets."""
        images, targets = self._batch_transform()(batch["image"], batch["label"], key)
        # The whole batch is kept, so it is cast to the model's dtype here, which saves memory.
        return {"image": images.astype(self.model.dtype), "target": targets}

    def __call__(
        self, variables: Variables, rows: Batch, key: Array, *, frozen: Any, ema: Variables
    ) -> tuple[Float[Array, ""], Aux]:
        """Return the mean loss over the rows and the heads."""
        output, collections = models.forward_train(self.model, variables, rows["image"], key)
        heads = (output.logits, *output.aux_logits)
        loss = jnp.mean(jnp.stack([self.loss_fn(logits, rows["target"]) for logits in heads]))
        return loss, Aux(collections, {})

    def _batch_transform(self) -> mixing.BatchTransform:
        num_classes = self.config.model["num_classes"]
        smoothing = self.config.objective["label_smoothing"]
        targets = functools.partial(losses.targets, num_classes=num_classes, smoothing=smoothing)
        return mixing.batch_transform(self.config.data, self.config.mix, targets)
