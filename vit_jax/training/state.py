"""The training state: data only, laid out over the mesh from the first moment."""

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.checkpoints.store import EMA, PARAMS, REST
from vit_jax.cluster import sharding
from vit_jax.training.parameter_groups import parameter_names

Params = Any


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes; model, optimizer and random keys follow from the config.

    The leaves are arrays, or their shapes and layout.
    """

    step: Any  # int32[]: batches seen, skipped ones too
    skipped: Any  # int32[]: of them, those whose update was not finite
    params: Params
    opt_state: optax.OptState
    ema: Params  # moving average of the parameters; empty where it is off

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate: the average where there is one."""
        return self.ema or self.params

    def to_items(self) -> dict[str, Any]:
        """Return the items of a checkpoint: parameters and average apart from all the rest."""
        rest = {"step": self.step, "skipped": self.skipped, "opt_state": self.opt_state}
        return {PARAMS: self.params, REST: rest} | ({EMA: self.ema} if self.ema else {})

    @classmethod
    def from_items(cls, items: Mapping[str, Any]) -> "TrainState":
        """Return the state from the items of a checkpoint."""
        return cls(params=items[PARAMS], ema=items.get(EMA, {}), **items[REST])


def abstract_state(
    boxed: Params, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh, *, ema: bool
) -> TrainState:
    """Return the shapes and the layout of the state; compute nothing.

    Args:
      boxed: The result of `models.abstract_params`.
      tx: The optimizer; what it keeps for a parameter lies as that parameter does.
      mesh: The devices.
      ema: Whether there is a moving average.
    """
    params = sharding.sharded_shapes(boxed, mesh)
    whole = sharding.replicated(mesh)
    leaves = jax.tree.leaves(params)
    by_name = dict(zip(parameter_names(params), leaves, strict=True))

    def of_parameter(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        # Moments are kept in trees like that of the parameters, at the end of the path.
        keys = [getattr(key, "key", None) for key in path]
        start = max((i + 1 for i, key in enumerate(keys) if key is None), default=0)
        param = by_name.get("/".join(map(str, keys[start:])))
        if param is None or param.shape != leaf.shape:  # a count, or a factored moment
            return sharding.with_sharding(leaf, whole)
        return sharding.with_sharding(leaf, param.sharding)

    opt_state = jax.tree_util.tree_map_with_path(of_parameter, jax.eval_shape(tx.init, params))
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    return TrainState(scalar, scalar, params, opt_state, params if ema else {})


def init(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    shapes: TrainState,
    given: Mapping[str, Array] | None = None,
) -> TrainState:
    """Make the state at step 0, straight into the layout of `abstract_state`.

    Args:
      model: The model.
      tx: The optimizer.
      image_shape: Height, width and channels.
      seed: Initialization seed.
      shapes: The result of `abstract_state`.
      given: Parameters by name that are not random; they are donated.
    """

    def make(given: Mapping[str, Array]) -> TrainState:
        random = nn.unbox(models.init_params(model, image_shape, seed))
        named = {**flax.traverse_util.flatten_dict(random, sep="/"), **given}
        params = flax.traverse_util.unflatten_dict(named, sep="/")
        zero = jnp.zeros((), jnp.int32)
        average = jax.tree.map(jnp.copy, params) if shapes.ema else {}
        return TrainState(zero, zero, params, tx.init(params), average)

    layout = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(make, out_shardings=layout, donate_argnums=0)(dict(given or {}))


def apply_gradients(
    state: TrainState,
    loss: Float[Array, ""],
    grads: Params,
    tx: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    ema_decay: float,
    *,
    ema_warmup: bool = False,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one step against the gradients; return the state and what there is to log.

    With warm-up the average's decay after n steps is at most (1 + n) / (10 + n), so that it soon
    forgets the first parameters.

    Where the loss, the gradients or the new parameters are not finite, everything but the counts
    stays as it was.
    """
    grad_norm = optax.tree.norm(grads)
    direction, opt_state = tx.update(grads, state.opt_state, state.params)
    update = jax.tree.map(lambda d: learning_rate * d, direction)
    params = jax.tree.map(lambda p, u: p - u, state.params, update)
    ema = state.ema
    if ema:
        decay: Any = ema_decay
        if ema_warmup:
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
    finite = jnp.isfinite(loss + grad_norm + optax.tree.norm(params))
    new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
    params, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    skipped = state.skipped + ~finite
    metrics = {
        "loss": loss,
        "learning_rate": learning_rate,
        "grad_norm": grad_norm,
        "update_norm": optax.tree.norm(update),
        "param_norm": optax.tree.norm(params),
        "skipped": skipped,
    }
    return TrainState(state.step + 1, skipped, params, opt_state, ema), metrics
