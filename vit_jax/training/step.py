"""The training step: one pure function of the state and a batch, compiled once."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.training import distill, losses, optim
from vit_jax.training import state as state_lib
from vit_jax.training.parameter_groups import trainable
from vit_jax.training.run import Run
from vit_jax.training.state import TrainState

TrainStep = Callable[
    [TrainState, Mapping[str, jax.Array], Any], tuple[TrainState, dict[str, jax.Array]]
]


# Folded into the random key of a step for its batch transform; micro-batches use 0, 1, ...
BATCH_KEY = 2**31


def make_train_step(run: Run) -> TrainStep:
    """Return the compiled step `(state, batch, teacher) -> (state, metrics)`.

    It donates the state. `teacher` holds the parameters of the run's teacher, if it has one.
    """
    config = run.config
    model = run.model
    trains = trainable(config.optim, run.shapes.params)

    def mean_loss(
        params: Any, teacher: Any, images: jax.Array, targets: jax.Array, key: jax.Array
    ) -> jax.Array:
        params = jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trains)
        with nn.logical_axis_rules(sharding.RULES):
            output = models.forward(model, params, images, key=key)
            if run.teacher:
                taught = run.teacher(teacher, images)
                return jnp.mean(distill.loss(config.distill, run.loss_fn, output, targets, taught))
        heads = (output.logits, *output.aux_logits)
        return jnp.mean(jnp.stack([run.loss_fn(logits, targets) for logits in heads]))

    def train_step(
        state: TrainState, batch: Mapping[str, jax.Array], teacher: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        num_classes = config.model["num_classes"]
        targets = losses.targets(batch["label"], num_classes, config.label_smoothing)
        images, targets = run.batch_transform(
            batch["image"], targets, jax.random.fold_in(key, BATCH_KEY)
        )
        images = images.astype(model.dtype)  # as the model would: the whole batch is kept

        def loss_and_grad(params: Any) -> tuple[jax.Array, Any]:
            step = functools.partial(jax.value_and_grad(mean_loss), params, teacher)
            return accumulate(step, (images, targets), key, config.optim.accum_steps)

        loss, grads = loss_and_grad(state.params)
        if config.optim.sam_radius:
            worse = optim.sam_perturb(state.params, grads, config.optim.sam_radius)
            _, grads = loss_and_grad(worse)
        rate = jnp.asarray(run.schedule(state.step), jnp.float32)
        return state_lib.apply_gradients(
            state,
            loss,
            grads,
            run.tx,
            rate,
            config.optim.ema_decay,
            ema_warmup=config.optim.ema_warmup,
        )

    layout = jax.tree.map(lambda leaf: leaf.sharding, run.shapes)
    return jax.jit(
        train_step,
        in_shardings=(layout, sharding.batch_sharding(run.mesh), None),
        out_shardings=(layout, sharding.replicated(run.mesh)),
        donate_argnums=0,
    )


def accumulate(
    loss_and_grad: Callable[..., Any], rows: tuple[jax.Array, ...], key: jax.Array, steps: int
) -> tuple[jax.Array, Any]:
    """Return the mean loss and gradient over the micro-batches of a batch, one after another."""
    if steps == 1:
        return loss_and_grad(*rows, key)
    # Every device cuts its own rows, so none travel.
    micro = [jnp.moveaxis(x.reshape(-1, steps, *x.shape[1:]), 1, 0) for x in rows]

    def add(total: Any, item: Any) -> tuple[Any, None]:
        i, *parts = item
        return jax.tree.map(jnp.add, total, loss_and_grad(*parts, jax.random.fold_in(key, i))), None

    shapes = jax.eval_shape(loss_and_grad, *(x[0] for x in micro), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(steps), *micro))
    return jax.tree.map(lambda x: x / steps, total)
