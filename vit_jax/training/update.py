"""From the gradients of a step to the next state, or to the same one where they are not finite."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from vit_jax.errors import ConfigError
from vit_jax.training.objectives import Aux
from vit_jax.training.schedules import Schedule
from vit_jax.training.state import Params, TrainState, Variables

# What every step logs; the metrics of an objective have other names.
METRICS = ("step", "loss", "learning_rate", "grad_norm", "update_norm", "param_norm", "skipped")


@dataclasses.dataclass(frozen=True)
class Update:
    """How gradients change the state.

    With warm-up the average's decay after n steps is at most (1 + n) / (10 + n), so that it soon
    forgets the first parameters.
    """

    tx: optax.GradientTransformation  # without the learning rate
    schedule: Schedule
    ema_decay: float = 0.0
    ema_warmup: bool = False

    def apply_gradients(
        self, state: TrainState, grads: Params, loss: Float[Array, ""], aux: Aux
    ) -> tuple[TrainState, dict[str, Array]]:
        """Take one step against the gradients; return the state and what there is to log.

        Where the loss, the gradients, the new parameters or collections are not finite, everything
        but the counts stays as it was.

        Raises:
          ConfigError: A metric has the name of another, or a `/`, which marks evaluations.
        """
        for name in aux.metrics:
            if name in METRICS or "/" in name:
                problem = f"its metric '{name}' needs another name, without '/'"
                raise ConfigError("config.objective", f"{problem}; taken are {', '.join(METRICS)}")
        rate = jnp.asarray(self.schedule(state.step), jnp.float32)
        grad_norm = optax.tree.norm(grads)
        direction, opt_state = self.tx.update(grads, state.opt_state, state.params)
        update = jax.tree.map(lambda d: rate * d, direction)
        params = jax.tree.map(lambda p, u: p - u, state.params, update)
        ema = self._average(state, {"params": params, **aux.collections})
        finite = jnp.isfinite(loss + grad_norm + optax.tree.norm(params))
        finite &= _is_finite(aux.collections)
        new = TrainState(
            step=state.step + 1,
            skipped=state.skipped + ~finite,
            params=_where(finite, params, state.params),
            collections=_where(finite, aux.collections, state.collections),
            opt_state=_where(finite, opt_state, state.opt_state),
            ema=_where(finite, ema, state.ema),
        )
        metrics = {
            **aux.metrics,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "update_norm": optax.tree.norm(update),
            "param_norm": optax.tree.norm(new.params),
            "skipped": new.skipped,
        }
        return new, metrics

    def _average(self, state: TrainState, variables: Variables) -> Variables:
        """Return the average with new variables; of integers, the new ones."""
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
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in leaves], bool))


def _where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
