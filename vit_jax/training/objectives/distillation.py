"""Distillation: the loss of the labels, and of a teacher that gets the same images.

The two losses have the weights 1 - alpha and alpha. A student with a distillation token learns the
labels with its class token and the teacher with its distillation token (Touvron et al. 2021,
section 4). Any other student learns both with its head (Hinton et al. 2015).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import pretrained
from vit_jax.cluster import sharding
from vit_jax.config import objective
from vit_jax.config.objective import Objective as ObjectiveSettings
from vit_jax.console.workdir import open_path
from vit_jax.data.sources import Source
from vit_jax.data.sources.class_names import same
from vit_jax.errors import ConfigError, pick
from vit_jax.training.objectives.base import Aux, Batch, Variables
from vit_jax.training.objectives.classification import Classification

TeacherLoss = Callable[[Float[Array, "b k"], Float[Array, "b k"], float], Float[Array, " b"]]


def hard(
    student: Float[Array, "b k"], teacher: Float[Array, "b k"], temperature: float
) -> Float[Array, " b"]:
    """Return the cross-entropy with the teacher's predicted class (Touvron et al. 2021, eq. 3)."""
    return optax.softmax_cross_entropy_with_integer_labels(student, jnp.argmax(teacher, axis=-1))


def soft(
    student: Float[Array, "b k"], teacher: Float[Array, "b k"], temperature: float
) -> Float[Array, " b"]:
    """Return the KL divergence from the teacher's probabilities (Touvron et al. 2021, eq. 2).

    It is multiplied by the squared temperature, so the scale of the gradient stays the same.
    """
    target = jax.nn.log_softmax(teacher / temperature)
    predicted = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - predicted), axis=-1)


TEACHER_LOSSES: dict[str, TeacherLoss] = {"hard": hard, "soft": soft}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model with fixed variables, which are an argument of the training step."""

    directory: str
    config: config_lib.Config
    model: nn.Module
    student: config_lib.Data

    def restore(self, mesh: jax.sharding.Mesh, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Return the variables, sharded over the mesh like the student's.

        Args:
          mesh: Mesh of the devices.
          class_names: Class names of the student's data.

        Raises:
          InputMissingError: There is no checkpoint.
          CheckpointError: The checkpoint is corrupt.
          ConfigError: The teacher has other classes.
        """
        workdir = open_path(self.directory, "config.objective.teacher")
        run = pretrained.restore(workdir, "", self.config, mesh)
        for theirs, ours in zip(run.class_names, class_names, strict=False):
            if not same([theirs], [ours]):
                problem = (
                    f"class mismatch: '{theirs}' in {self.directory}, '{ours}' in the data set"
                )
                raise ConfigError("config.objective.teacher", problem)
        return run.variables

    def shapes(self, mesh: jax.sharding.Mesh) -> dict[str, Any]:
        """Return the shapes of the variables, sharded over the mesh, without reading them."""
        boxed = models.abstract_variables(self.model, self.config.data.image_shape)
        return {name: sharding.sharded_shapes(tree, mesh) for name, tree in boxed.items()}

    def __call__(self, variables: Variables, images: Float[Array, "b h w c"]) -> Array:
        """Return the teacher's logits for images that are normalized for the student."""
        own, given = self.config.data, self.student
        if (own.mean, own.std) != (given.mean, given.std):
            pixels = images * jnp.asarray(given.std) + jnp.asarray(given.mean)
            images = (pixels - jnp.asarray(own.mean)) / jnp.asarray(own.std)
        logits = models.forward(self.model, variables, images).logits
        return jax.lax.stop_gradient(logits)


def open_teacher(directory: str, config: config_lib.Config) -> Teacher:
    """Return the teacher of a run folder, without its variables.

    Args:
      directory: Path of the run folder.
      config: Config of the student.

    Raises:
      InputMissingError: There is no such run folder.
      ConfigError: The teacher has another number of classes or channels, or its stride does not
        divide the image size.
    """
    path = "config.objective.teacher"
    teacher = config_lib.read_named_config(directory, path)
    for what, theirs, ours in (
        ("classes", teacher.model["num_classes"], config.model["num_classes"]),
        ("channels", teacher.data.channels, config.data.channels),
    ):
        if theirs != ours:
            raise ConfigError(path, f"{directory} has {theirs} {what}, the run {ours}")
    model = models.create(**teacher.model)
    for size, cell in zip(config.data.image_size, model.stride, strict=True):
        if size % cell:
            problem = f"{directory} expects a multiple of {cell} pixels, got {size}"
            raise ConfigError(path, problem)
    return Teacher(directory, teacher, model, config.data)


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """The loss of the labels, and of a teacher's logits for the same images.

    Raises:
      ConfigError: The loss, the fill of erased rectangles or `kind` is unknown.
    """

    settings: ClassVar[type[ObjectiveSettings]] = objective.Distillation

    def __post_init__(self) -> None:
        super().__post_init__()
        pick(TEACHER_LOSSES, self.config.objective["kind"], "config.objective.kind")

    def check(self) -> None:
        """Check that the teacher exists and fits the run.

        Raises:
          InputMissingError: The teacher does not exist.
          ConfigError: The teacher does not fit.
        """
        _ = self.opened

    @functools.cached_property
    def opened(self) -> Teacher:
        """The teacher."""
        return open_teacher(self.config.objective["teacher"], self.config)

    def describe(self) -> dict[str, str]:
        """Return the line with the teacher's folder."""
        return {"teacher": self.config.objective["teacher"]}

    def frozen(self, mesh: jax.sharding.Mesh, source: Source) -> dict[str, Any]:
        """Return the teacher's variables."""
        return self.opened.restore(mesh, source.class_names)

    def frozen_shapes(self, mesh: jax.sharding.Mesh, source: Source) -> dict[str, Any]:
        """Return the shapes of the teacher's variables."""
        return self.opened.shapes(mesh)

    def __call__(
        self, variables: Variables, rows: Batch, key: Array, *, frozen: Any, ema: Variables
    ) -> tuple[Float[Array, ""], Aux]:
        """Return the mean loss over the rows."""
        output, collections = models.forward_train(self.model, variables, rows["image"], key)
        taught = self.opened(frozen, rows["image"])
        return jnp.mean(self.mix(output, rows["target"], taught)), Aux(collections, {})

    def mix(
        self,
        output: models.Output,
        targets: Float[Array, "b k"],
        teacher_logits: Float[Array, "b k"],
    ) -> Float[Array, " b"]:
        """Return the weighted sum of the two losses for each image."""
        settings = self.config.objective
        alpha = settings["alpha"]
        student = output.aux_logits[0] if output.aux_logits else output.logits
        teacher_loss = TEACHER_LOSSES[settings["kind"]]
        of_label = self.loss_fn(output.logits, targets)
        of_teacher = teacher_loss(student, teacher_logits, settings["temperature"])
        return (1 - alpha) * of_label + alpha * of_teacher
