"""The interface of an objective: from a batch to a loss, whatever it is that is learned."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax import config as config_lib
from vit_jax.config.objective import Objective as ObjectiveSettings
from vit_jax.data.sources import Source

Variables = Mapping[str, Any]  # `params` and the other collections of a model, by name
Batch = Mapping[str, Array]  # arrays with the same number of rows


class Aux(NamedTuple):
    """What comes with a loss.

    Attributes:
      collections: Those of the model besides `params`, as the forward pass leaves them.
      metrics: Further figures, which are written and shown beside the loss; means over the rows.
    """

    collections: dict[str, Any]
    metrics: dict[str, Array]


class Objective(abc.ABC):
    """What a run learns; methods that are not abstract suit an objective without a second model.

    Attributes:
      settings: Its fields in the config, which it reads as `config.objective["FIELD"]`.
      evaluator: The name of the evaluator that fits it.
      needs_labels: Whether all images must be of the classes of the training images.
    """

    settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings
    evaluator: ClassVar[str]
    needs_labels: ClassVar[bool]

    @abc.abstractmethod
    def __init__(self, config: config_lib.Config, model: nn.Module) -> None:
        """Check the settings of this objective.

        Args:
          config: Of the run, completed.
          model: The model that trains.
        """

    @classmethod
    def complete(cls, config: config_lib.Config, source: Source) -> config_lib.Config:
        """Return the config with what the training images determine.

        Raises:
          ConfigError: It is at odds with them.
        """
        return config

    def check(self) -> None:  # noqa: B027 - most need nothing
        """Check what it needs beside the run's own data, before the first step.

        Raises:
          UserError: Something is missing, or does not fit. A finished run needs none of it.
        """

    def describe(self) -> dict[str, str]:
        """Return lines about the objective, by what they begin with."""
        return {}

    def frozen(self, mesh: jax.sharding.Mesh, source: Source) -> Any:
        """Return the variables that the loss needs and no step changes, laid out over the mesh.

        Args:
          mesh: The devices.
          source: The training images.
        """
        return {}

    @abc.abstractmethod
    def prepare(self, batch: Batch, key: Array) -> Batch:
        """Return what the loss needs of a batch; called once a step, for all of its rows.

        Args:
          batch: Rows of the source: `image` as uint8, and `label`.
          key: A random key.
        """

    @abc.abstractmethod
    def __call__(
        self, variables: Variables, rows: Batch, key: Array, *, frozen: Any, ema: Variables
    ) -> tuple[Float[Array, ""], Aux]:
        """Return the mean loss of rows, and what comes with it.

        Args:
          variables: The model's; the loss is differentiated by its `params`.
          rows: Of a batch as `prepare` returns it: all, or those of a micro-batch.
          key: A random key.
          frozen: What the method of this name returned.
          ema: The moving average of the variables; empty where the run has none.
        """
