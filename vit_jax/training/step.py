"""The training step: a pure function of the state and a batch, compiled once."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from vit_jax.cluster import sharding
from vit_jax.training import optim, rounding
from vit_jax.training.objectives import Aux
from vit_jax.training.parameter_groups import updated_collections
from vit_jax.training.run import Run
from vit_jax.training.state import TrainState
from vit_jax.training.update import Update

TrainStep = Callable[
    [TrainState, Mapping[str, jax.Array], Any], tuple[TrainState, dict[str, jax.Array]]
]
# Maps the collections of the model, rows and a random key to (loss, Aux) and gradients.
LossAndGrad = Callable[[Any, Any, Array], tuple[tuple[Array, Aux], Any]]


# Folded into the random key of a step for the whole batch; micro-batches use 0, 1, ...
BATCH_KEY = 2**31


def make_train_step(run: Run) -> TrainStep:
    """Return the jitted step `(state, batch, frozen) -> (state, metrics)`.

    It donates the state. `frozen` are the variables of the objective that no step changes, such as
    those of a teacher.
    """
    config = run.config
    objective = run.objective
    update = Update(
        run.tx, run.schedule, config.optim.ema_decay, config.optim.ema_warmup, config.seed
    )
    trains = run.trains
    moves = updated_collections(run.shapes.collections, trains)

    def loss(
        params: Any, collections: Any, rows: Any, key: Array, *, frozen: Any, ema: Any
    ) -> tuple[Array, Aux]:
        params = jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trains)
        with nn.logical_axis_rules(sharding.RULES):
            variables = {"params": params, **collections}
            value, aux = objective(variables, rows, key, frozen=frozen, ema=ema)
        pairs = (moves, aux.collections, collections)
        kept = jax.tree.map(lambda move, new, old: new if move else old, *pairs)
        return value, aux._replace(collections=kept)

    gradient = jax.value_and_grad(loss, has_aux=True)

    def train_step(
        state: TrainState, batch: Mapping[str, jax.Array], frozen: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        rows = objective.prepare(batch, jax.random.fold_in(key, BATCH_KEY))

        def loss_and_grad(params: Any) -> tuple[tuple[Array, Aux], Any]:
            of_rows = functools.partial(gradient, params, frozen=frozen, ema=state.ema)
            return accumulate(of_rows, state.collections, rows, key, config.optim.accum_steps)

        params = rounding.widen(state.params)
        (value, aux), grads = loss_and_grad(params)
        if config.optim.sam_radius:
            worse = optim.sam_perturb(params, grads, config.optim.sam_radius)
            _, grads = loss_and_grad(worse)
        return update.apply_gradients(state, grads, value, aux)

    layout = jax.tree.map(lambda leaf: leaf.sharding, run.shapes)
    return jax.jit(
        train_step,
        in_shardings=(layout, sharding.batch_sharding(run.mesh), None),
        out_shardings=(layout, sharding.replicated(run.mesh)),
        donate_argnums=0,
    )


def accumulate(
    loss_and_grad: LossAndGrad, collections: Any, rows: Any, key: Array, steps: int
) -> tuple[tuple[Array, Aux], Any]:
    """Return loss, metrics and gradients as means over the micro-batches of a batch.

    Micro-batches run one after another. Each starts from the collections of the previous one, and
    the collections of the last one are returned.

    Args:
      loss_and_grad: The loss and its gradients for some rows.
      collections: The collections of the model other than `params`.
      rows: The rows of the batch, each array of shape (batch, ...).
      key: The random key of the step.
      steps: Number of micro-batches.
    """
    if steps == 1:
        return loss_and_grad(collections, rows, key)
    # Every device splits its own rows, so that no row moves to another device.
    micro = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, steps, *x.shape[1:]), 1, 0), rows)

    def add(carry: tuple[Any, Any], item: tuple[Array, Any]) -> tuple[tuple[Any, Any], None]:
        left, total = carry
        i, part = item
        (loss, aux), grads = loss_and_grad(left, part, jax.random.fold_in(key, i))
        new = (loss, aux.metrics, grads)
        return (aux.collections, jax.tree.map(jnp.add, total, new)), None

    first = jax.tree.map(lambda x: x[0], micro)
    (loss, aux), grads = jax.eval_shape(loss_and_grad, collections, first, key)
    shapes = (loss, aux.metrics, grads)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (collections, total), _ = jax.lax.scan(add, (collections, zeros), (jnp.arange(steps), micro))
    loss, metrics, grads = jax.tree.map(lambda x: x / steps, total)
    return (loss, Aux(collections, metrics)), grads
