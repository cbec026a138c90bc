"""The training state: a pytree of arrays, created sharded over the mesh."""

import contextlib
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from vit_jax import models
from vit_jax.checkpoints.store import EMA, REST, join_variables, split_variables
from vit_jax.cluster import sharding
from vit_jax.console.waiting import Booking
from vit_jax.models.stacking import NO_STACKS, Stacks, stack
from vit_jax.training import rounding
from vit_jax.training.parameter_groups import parameter_names

Params = Any
Variables = dict[str, Any]  # the collections of a model by name, `params` included


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes.

    In training, its trees have the stacks of the run; in a checkpoint, they have none.

    The model, the optimizer and the random keys are not part of it: they follow from the config.
    The leaves are arrays, or `jax.ShapeDtypeStruct`s with their shardings.
    """

    step: Any  # int32[]: number of training steps, including skipped ones
    skipped: Any  # int32[]: number of steps that were skipped because a value was not finite
    params: Params  # kernels are in `optim.param_dtype`
    collections: Variables  # the model's other collections, such as batch statistics
    opt_state: optax.OptState
    ema: Variables  # exponential moving average of params and collections; empty if disabled

    @property
    def variables(self) -> Variables:
        """All collections of the model, as `model.apply` takes them: in float32."""
        return {"params": rounding.widen(self.params), **self.collections}

    @property
    def eval_variables(self) -> Variables:
        """The variables to evaluate: the moving average if it is enabled."""
        return self.ema or self.variables

    def to_items(self) -> dict[str, Any]:
        """Return the items of a checkpoint: variables, moving average, and all the rest."""
        rest = {"step": self.step, "skipped": self.skipped, "opt_state": self.opt_state}
        average = split_variables(self.ema, ema=True) if self.ema else {}
        held = split_variables({"params": self.params, **self.collections})
        return {**held, REST: rest, **average}

    @classmethod
    def from_items(cls, items: Mapping[str, Any]) -> "TrainState":
        """Return the state with the items of a checkpoint; the inverse of `to_items`."""
        collections = join_variables(items)
        params = collections.pop("params")
        average = join_variables(items, ema=True) if EMA in items else {}
        return cls(params=params, collections=collections, ema=average, **items[REST])


def abstract_state(
    boxed: Variables,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    ema: bool,
    param_dtype: str = "float32",
) -> TrainState:
    """Return the shapes, dtypes and shardings of the state, without stacks or any computation.

    Args:
      boxed: The result of `models.abstract_variables`, with logical axis names.
      tx: The optimizer. Its moments are sharded like the dimensions of their parameters that they
        have.
      mesh: The device mesh.
      ema: Whether the state has a moving average, which is in float32.
      param_dtype: The dtype of the kernels; see `rounding`.
    """
    collections = {name: sharding.sharded_shapes(tree, mesh) for name, tree in boxed.items()}
    params = collections.pop("params")
    replicated = sharding.replicated(mesh)
    leaves = jax.tree.leaves(params)
    by_name = dict(zip(parameter_names(params), leaves, strict=True))

    def shard_like_parameter(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        # The path of a moment ends with the path of its parameter.
        keys = [getattr(key, "key", None) for key in path]
        start = max((i + 1 for i, key in enumerate(keys) if key is None), default=0)
        param = by_name.get("/".join(map(str, keys[start:])))
        if param is None:  # a counter
            return sharding.with_sharding(leaf, replicated)
        kept = _kept_dimensions(getattr(path[start - 1], "name", ""), param.shape, leaf.shape)
        return sharding.with_sharding(leaf, sharding.keep_dimensions(param, kept))

    opt_state = jax.tree_util.tree_map_with_path(
        shard_like_parameter, jax.eval_shape(tx.init, params)
    )
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    average = {"params": params, **collections} if ema else {}
    params = rounding.narrow_shapes(params, param_dtype)
    return TrainState(scalar, scalar, params, collections, opt_state, average)


# The dimension of a parameter that a factored moment of Adafactor averages over, by its rank in
# the order of sizes, as `optax.scale_by_factored_rms` chooses it.
AVERAGED = {"v_row": -1, "v_col": -2}


def _kept_dimensions(
    field: str, shape: tuple[int, ...], moment: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the dimensions of a parameter that its moment has; none for a placeholder.

    Args:
      field: The field of the optimizer's state, such as `nu`.
      shape: The shape of the parameter.
      moment: The shape of the moment.
    """
    kept = tuple(range(len(shape)))
    if field in AVERAGED and len(shape) > 1:
        averaged = int(np.argsort(shape)[AVERAGED[field]])
        kept = tuple(i for i in kept if i != averaged)
    return kept if moment == tuple(shape[i] for i in kept) else ()


def init(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    shapes: TrainState,
    given: Mapping[str, Array] | None = None,
    stacks: Stacks = NO_STACKS,
    booking: Booking = contextlib.nullcontext,
) -> TrainState:
    """Initialize the state at step 0, sharded as `abstract_state` says.

    Args:
      model: The model.
      tx: The optimizer.
      image_shape: (height, width, channels).
      seed: Seed of the random initialization.
      shapes: The result of `abstract_state`, with its stacks.
      given: Values of variables that are not initialized randomly, by name, such as
        `params/head/bias`. Their buffers are donated, except for those of stacks.
      stacks: The stacks of the state.
      booking: Measures the compilation; see `compiled_first`.
    """
    given = given or {}
    layers = {layer for names in stacks.values() for layer in names}
    copied = {name: leaf for name, leaf in given.items() if not layers.isdisjoint(name.split("/"))}
    donated = {name: leaf for name, leaf in given.items() if name not in copied}

    def make(donated: Mapping[str, Array], copied: Mapping[str, Array]) -> TrainState:
        random = nn.unbox(models.init_variables(model, image_shape, seed))
        named = {**flax.traverse_util.flatten_dict(random, sep="/"), **donated, **copied}
        variables = stack(flax.traverse_util.unflatten_dict(named, sep="/"), stacks)
        average = jax.tree.map(jnp.copy, variables) if shapes.ema else {}
        params = variables.pop("params")
        opt_state = tx.init(params)
        params = jax.tree.map(lambda p, shape: p.astype(shape.dtype), params, shapes.params)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, params, variables, opt_state, average)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    program = jax.jit(make, out_shardings=shardings, donate_argnums=0)
    with booking("initialization"):
        program.lower(donated, copied).compile()
    return program(donated, copied)
