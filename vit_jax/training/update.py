"""The update of the state by gradients, which is skipped if they are not finite."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from vit_jax.errors import ConfigError
from vit_jax.training import rounding
from vit_jax.training.objectives import Aux
from vit_jax.training.schedules import Schedule
from vit_jax.training.state import Params, TrainState, Variables

# The metrics that every step logs. Metrics of an objective need other names.
METRICS = ("step", "loss", "learning_rate", "grad_norm", "update_norm", "param_norm", "skipped")


@dataclasses.dataclass(frozen=True)
class Update:
    """Applies gradients to the training state.

    With `ema_warmup`, the decay of the exponential moving average (EMA) after n steps is at most
    (1 + n) / (10 + n), so that the initial weights are soon forgotten.
    """

    tx: optax.GradientTransformation  # the optimizer, without the learning rate
    schedule: Schedule  # the learning rate as a function of the step
    ema_decay: float = 0.0  # 0: no EMA
    ema_warmup: bool = False
    seed: int = 0  # of the stochastic rounding of bfloat16 parameters

    def apply_gradients(
        self, state: TrainState, grads: Params, loss: Float[Array, ""], aux: Aux
    ) -> tuple[TrainState, dict[str, Array]]:
        """Update the state by one step of gradient descent.

        If the loss, the gradients, the new parameters or the new collections are not finite, only
        the counters `step` and `skipped` change.

        Args:
          state: The state before the step.
          grads: The gradients of the parameters, in float32.
          loss: The loss.
          aux: The new collections, and the metrics of the objective.

        Returns:
          The new state, and the metrics to log.

        Raises:
          ConfigError: A metric of the objective has the name of another metric, or contains a `/`,
            which is reserved for evaluations.
        """
        for name in aux.metrics:
            if name in METRICS or "/" in name:
                problem = f"cannot log the metric '{name}'; choose a name without '/'"
                taken = ", ".join(METRICS)
                raise ConfigError("config.objective", f"{problem} that is not one of {taken}")
        rate = jnp.asarray(self.schedule(state.step), jnp.float32)
        grad_norm = optax.tree.norm(grads)
        params = rounding.widen(state.params)
        direction, opt_state = self.tx.update(grads, state.opt_state, params)
        update = jax.tree.map(lambda d: rate * d, direction)
        params = jax.tree.map(lambda p, u: p - u, params, update)
        params = rounding.round_like(params, state.params, f"{self.seed} params", state.step)
        ema = self._update_ema(state, {"params": params, **aux.collections})
        finite = jnp.isfinite(loss + grad_norm + optax.tree.norm(rounding.widen(params)))
        finite &= _is_finite(aux.collections)
        new = TrainState(
            step=state.step + 1,
            skipped=state.skipped + ~finite,
            params=_select(finite, params, state.params),
            collections=_select(finite, aux.collections, state.collections),
            opt_state=_select(finite, opt_state, state.opt_state),
            ema=_select(finite, ema, state.ema),
        )
        metrics = {
            **aux.metrics,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "update_norm": optax.tree.norm(update),
            "param_norm": optax.tree.norm(rounding.widen(new.params)),
            "skipped": new.skipped,
        }
        return new, metrics

    def _update_ema(self, state: TrainState, variables: Variables) -> Variables:
        """Return the EMA after a step; integer arrays are copied from the new variables."""
        if not state.ema:
            return {}
        decay: Any = self.ema_decay
        if self.ema_warmup:
            decay = jnp.minimum(self.ema_decay, (1 + state.step) / (10 + state.step))

        def average(old: Array, new: Array) -> Array:
            is_float = jnp.issubdtype(new.dtype, jnp.floating)
            return old + (1 - decay) * (new - old) if is_float else new

        return jax.tree.map(average, state.ema, variables)


def _is_finite(tree: Any) -> Bool[Array, ""]:
    """Return whether all floating-point values of a tree are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in leaves], bool))


def _select(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Return the tree `new` if the condition holds, else `old`."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
