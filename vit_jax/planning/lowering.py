"""Lower the steps of a run from the shapes of their arguments alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.cluster import sharding
from vit_jax.errors import pick
from vit_jax.evaluation.loop import eval_batch_size, make_eval_step, zeros
from vit_jax.training import rounding
from vit_jax.training.run import Run
from vit_jax.training.step import make_train_step


def lower(run: Run, step: str) -> Any:
    """Lower the step `train` or `eval` of a run for the devices of its mesh.

    Raises:
      ConfigError: There is no such step.
    """
    with jax.set_mesh(run.mesh):
        return pick(STEPS, step, "--step")(run)


def batch_size(run: Run, step: str) -> int:
    """Return the number of images of a step, on all devices."""
    return run.config.batch_size if step == "train" else eval_batch_size(run.config, run.mesh)


def state(run: Run, step: str) -> Any:
    """Return the shapes of what a step gets besides a batch, as it lies on the devices."""
    return run.shapes if step == "train" else _eval_variables(run)


def _lower_train(run: Run) -> Any:
    frozen = run.objective.frozen_shapes(run.mesh, run.splits["train"])
    step: Any = make_train_step(run)
    return step.lower(run.shapes, _batch(run, run.config.batch_size), frozen)


def _lower_eval(run: Run) -> Any:
    size = eval_batch_size(run.config, run.mesh)
    mask = jax.ShapeDtypeStruct((size,), jnp.bool_, sharding=sharding.batch_sharding(run.mesh))
    whole = sharding.replicated(run.mesh)
    sums = jax.tree.map(
        lambda leaf: sharding.with_sharding(leaf, whole),
        jax.eval_shape(lambda: zeros(run.evaluators)),
    )
    step: Any = make_eval_step(run.evaluators, run.mesh)
    return step.lower(_eval_variables(run), sums, {**_batch(run, size), "mask": mask})


def _eval_variables(run: Run) -> Any:
    """Return the shapes of `TrainState.eval_variables`."""
    params = rounding.narrow_shapes(run.shapes.params, "float32")
    return run.shapes.ema or {"params": params, **run.shapes.collections}


def _batch(run: Run, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    rows = sharding.batch_sharding(run.mesh)
    return {
        "image": jax.ShapeDtypeStruct(
            (size, *run.config.data.image_shape), jnp.uint8, sharding=rows
        ),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=rows),
    }


# What is compiled, by the name of the step; the program is called `jit_{name}_step`.
STEPS: dict[str, Callable[[Run], Any]] = {"train": _lower_train, "eval": _lower_eval}
