"""The training state: data only, laid out over the mesh from the first moment."""

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from vit_jax import models
from vit_jax.checkpoints.store import EMA, REST, join_variables, split_variables
from vit_jax.cluster import sharding
from vit_jax.training.parameter_groups import parameter_names

Params = Any
Variables = dict[str, Any]  # `params` and the other collections of a model, by name


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes; model, optimizer and random keys follow from the config.

    The leaves are arrays, or their shapes and layout.
    """

    step: Any  # int32[]: batches seen, skipped ones too
    skipped: Any  # int32[]: of them, those whose update was not finite
    params: Params
    collections: Variables  # the model's other collections, such as statistics of batches
    opt_state: optax.OptState
    ema: Variables  # moving average of parameters and collections; empty where it is off

    @property
    def variables(self) -> Variables:
        """The parameters and the other collections, as the model takes them."""
        return {"params": self.params, **self.collections}

    @property
    def eval_variables(self) -> Variables:
        """The variables to evaluate: the average where there is one."""
        return self.ema or self.variables

    def to_items(self) -> dict[str, Any]:
        """Return the items of a checkpoint: variables and average apart from all the rest."""
        rest = {"step": self.step, "skipped": self.skipped, "opt_state": self.opt_state}
        average = split_variables(self.ema, ema=True) if self.ema else {}
        return {**split_variables(self.variables), REST: rest, **average}

    @classmethod
    def from_items(cls, items: Mapping[str, Any]) -> "TrainState":
        """Return the state from the items of a checkpoint."""
        collections = join_variables(items)
        params = collections.pop("params")
        average = join_variables(items, ema=True) if EMA in items else {}
        return cls(params=params, collections=collections, ema=average, **items[REST])


def abstract_state(
    boxed: Variables, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh, *, ema: bool
) -> TrainState:
    """Return the shapes and the layout of the state; compute nothing.

    Args:
      boxed: The result of `models.abstract_variables`.
      tx: The optimizer; what it keeps for a parameter lies as that parameter does.
      mesh: The devices.
      ema: Whether there is a moving average.
    """
    collections = {name: sharding.sharded_shapes(tree, mesh) for name, tree in boxed.items()}
    params = collections.pop("params")
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
    average = {"params": params, **collections} if ema else {}
    return TrainState(scalar, scalar, params, collections, opt_state, average)


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
      given: Variables that are not random, by name, such as `params/head/bias`; they are donated.
    """

    def make(given: Mapping[str, Array]) -> TrainState:
        random = nn.unbox(models.init_variables(model, image_shape, seed))
        named = {**flax.traverse_util.flatten_dict(random, sep="/"), **given}
        variables = flax.traverse_util.unflatten_dict(named, sep="/")
        average = jax.tree.map(jnp.copy, variables) if shapes.ema else {}
        params = variables.pop("params")
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, params, variables, tx.init(params), average)

    layout = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(make, out_shardings=layout, donate_argnums=0)(dict(given or {}))
