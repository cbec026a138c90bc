"""The interface of an objective: from a batch to a loss."""

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
Batch = Mapping[str, Array]  # arrays with the same first dimension


class Aux(NamedTuple):
    """Auxiliary outputs of a loss.

    Attributes:
      collections: Collections of the model besides `params`, after the forward pass.
      metrics: Additional metrics, which are logged with the loss; means over the rows.
    """

    collections: dict[str, Any]
    metrics: dict[str, Array]


class Objective(abc.ABC):
    """The loss of a run; the default methods suit an objective without a second model.

    Attributes:
      settings: Fields in the config, which are read as `config.objective["FIELD"]`.
      evaluator: Name of the matching evaluator.
      needs_labels: Whether all splits must have the classes of the training split.
    """

    settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings
    evaluator: ClassVar[str]
    needs_labels: ClassVar[bool]

    @abc.abstractmethod
    def __init__(self, config: config_lib.Config, model: nn.Module) -> None:
        """Check the settings of this objective.

        Args:
          config: Completed config of the run.
          model: Model to train.
        """

    @classmethod
    def complete(cls, config: config_lib.Config, source: Source) -> config_lib.Config:
        """Return the config with the values that are inferred from the training images.

        Raises:
          ConfigError: The config contradicts the images.
        """
        return config

    def check(self) -> None:  # noqa: B027 - most need nothing
        """Check the objective's other inputs, such as a teacher, before the first step.

        A finished run is not checked.

        Raises:
          UserError: An input is missing, or does not fit.
        """

    def describe(self) -> dict[str, str]:
        """Return lines for the summary of the run, by topic."""
        return {}

    def frozen(self, mesh: jax.sharding.Mesh, source: Source) -> Any:
        """Return the variables of the loss that no step changes, sharded over the mesh.

        Args:
          mesh: Mesh of the devices.
          source: Source of the training images.
        """
        return {}

    def frozen_shapes(self, mesh: jax.sharding.Mesh, source: Source) -> Any:
        """Return the shapes, dtypes and shardings of `frozen`, to compile without its arrays.

        An objective whose `frozen` reads files says them itself.
        """
        return jax.eval_shape(lambda: self.frozen(mesh, source))

    @abc.abstractmethod
    def prepare(self, batch: Batch, key: Array) -> Batch:
        """Return the inputs of the loss for a whole batch; called once per step.

        Args:
          batch: Rows of the source: `image` as uint8, and `label`.
          key: Random key.
        """

    @abc.abstractmethod
    def __call__(
        self, variables: Variables, rows: Batch, key: Array, *, frozen: Any, ema: Variables
    ) -> tuple[Float[Array, ""], Aux]:
        """Return the mean loss over rows, and its auxiliary outputs.

        Args:
          variables: Variables of the model; gradients are taken with respect to `params`.
          rows: Rows of a prepared batch: all of them, or a micro-batch.
          key: Random key.
          frozen: Return value of `frozen`.
          ema: EMA of the variables; empty for a run without one.
        """
