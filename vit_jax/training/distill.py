"""Learning from a teacher: any model of ours, which sees the very same pixels as the student.

The loss of the labels and that of the teacher are weighted by 1 - alpha and alpha. A student with
a distillation token learns the labels on its class token and the teacher on the other (Touvron et
al. 2021, section 4); any other learns both on its one head (Hinton et al. 2015).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import pretrained
from vit_jax.console.workdir import open_path
from vit_jax.errors import ConfigError, pick

TeacherLoss = Callable[[Float[Array, "b k"], Float[Array, "b k"], float], Float[Array, " b"]]


def hard(
    student: Float[Array, "b k"], teacher: Float[Array, "b k"], temperature: float
) -> Float[Array, " b"]:
    """Return the cross-entropy with the teacher's choice (Touvron et al. 2021, eq. 3)."""
    return optax.softmax_cross_entropy_with_integer_labels(student, jnp.argmax(teacher, axis=-1))


def soft(
    student: Float[Array, "b k"], teacher: Float[Array, "b k"], temperature: float
) -> Float[Array, " b"]:
    """Return the divergence from the teacher's probabilities (Touvron et al. 2021, eq. 2).

    Times the square of the temperature, so that the gradients' size does not depend on it.
    """
    target = jax.nn.log_softmax(teacher / temperature)
    predicted = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - predicted), axis=-1)


TEACHER_LOSSES: dict[str, TeacherLoss] = {"hard": hard, "soft": soft}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model that is not trained further; its parameters are an argument of the step."""

    directory: str
    config: config_lib.Config
    model: nn.Module
    student: config_lib.Data

    def restore(self, mesh: jax.sharding.Mesh, class_names: tuple[str, ...]) -> Any:
        """Return the parameters, laid out over the mesh as the student's are.

        Args:
          mesh: The devices.
          class_names: Of the student's data.

        Raises:
          InputMissingError: There is no checkpoint.
          CheckpointError: It is damaged.
          ConfigError: The teacher has other classes.
        """
        workdir = open_path(self.directory, "config.distill.teacher")
        run = pretrained.restore(workdir, "", self.config, mesh)
        for theirs, ours in zip(run.class_names, class_names, strict=False):
            if theirs != ours:
                problem = (
                    f"class mismatch: '{theirs}' in {self.directory}, '{ours}' in the data set"
                )
                raise ConfigError("config.distill.teacher", problem)
        return run.params

    def __call__(self, params: Any, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Return the teacher's logits for images as they are normalized for the student."""
        own, given = self.config.data, self.student
        if (own.mean, own.std) != (given.mean, given.std):
            pixels = images * jnp.asarray(given.std) + jnp.asarray(given.mean)
            images = (pixels - jnp.asarray(own.mean)) / jnp.asarray(own.std)
        logits = models.forward(self.model, params, images).logits
        return jax.lax.stop_gradient(logits)


def open_teacher(config: config_lib.Config) -> Teacher | None:
    """Return the teacher that a config names, or None; read no parameters.

    Raises:
      InputMissingError: There is no such run folder.
      ConfigError: It classifies other things, or cannot see these images.
    """
    pick(TEACHER_LOSSES, config.distill.kind, "config.distill.kind")
    directory = config.distill.teacher
    path = "config.distill.teacher"
    if not directory:
        return None
    teacher = config_lib.read_config(open_path(directory, path))
    for what, theirs, ours in (
        ("classes", teacher.model["num_classes"], config.model["num_classes"]),
        ("channels", teacher.data.channels, config.data.channels),
    ):
        if theirs != ours:
            raise ConfigError(path, f"{directory} has {theirs} {what}, the run {ours}")
    model = models.create(**teacher.model)
    for size, cell in zip(config.data.image_size, model.stride, strict=True):
        if size % cell:
            problem = f"{directory} sees images in cells of {cell} pixels, got {size}"
            raise ConfigError(path, problem)
    return Teacher(directory, teacher, model, config.data)


def loss(
    config: config_lib.Distill,
    loss_fn: Callable[[Array, Array], Array],
    output: models.Output,
    targets: Float[Array, "b k"],
    teacher_logits: Float[Array, "b k"],
) -> Float[Array, " b"]:
    """Return the loss of each image: of its label, and of what the teacher says."""
    of_label = loss_fn(output.logits, targets)
    taught = output.aux_logits[0] if output.aux_logits else output.logits
    of_teacher = TEACHER_LOSSES[config.kind](taught, teacher_logits, config.temperature)
    return (1 - config.alpha) * of_label + config.alpha * of_teacher
