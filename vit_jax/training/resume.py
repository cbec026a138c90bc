"""The state of a resumed run; its optimizer and its EMA may differ from those of the checkpoint.

A checkpoint is restored with the optimizer of its own config. The moments that the new optimizer
has too are kept, and the others start at zero. Moments are matched by the names of their field and
parameter, because clipping, multipliers and frozen parameters change the structure of the state.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.config.identity import SAME_FUNCTION
from vit_jax.training import optim
from vit_jax.training.run import Run
from vit_jax.training.stacked_state import stack_state
from vit_jax.training.state import TrainState, abstract_state

# Keys of optax's wrappers, which hold the state of a part of the parameters.
WRAPPERS = frozenset({"inner_states", "inner_state", "train", "freeze"})


def restore(
    run: Run, checkpoints: Checkpoints, allowed: tuple[str, ...] = ()
) -> tuple[TrainState, list[str]] | None:
    """Return the state of the newest intact checkpoint, and notes on what has changed.

    Args:
      run: The run to resume.
      checkpoints: Checkpoints of its work directory.
      allowed: Config keys that may differ from those of the checkpoint.

    Returns:
      None if there is no checkpoint.

    Raises:
      CheckpointError: All checkpoints are corrupt.
      ConfigError: The checkpoint belongs to a run with other settings, or to another model.
    """
    found = checkpoints.find(run.fingerprint, allowed)
    if found is None:
        return None
    saved = _read_optim(found.config["optim"])
    family = models.family(run.config.model["name"])
    boxed = models.abstract_variables(run.model, run.config.data.image_shape)
    tx = optim.make_optimizer(saved, nn.unbox(boxed["params"]), family)
    average, dtype = saved.ema_decay > 0, saved.param_dtype
    shapes = abstract_state(boxed, tx, run.mesh, ema=average, param_dtype=dtype)
    state = TrainState.from_items(checkpoints.restore(found, shapes.to_items()))
    state, notes = carry_over(run, state, same_optimizer=saved.name == run.config.optim.name)
    return stack_state(state, run.stacks), [*notes, *_describe_changes(run, found.config)]


def carry_over(
    run: Run, state: TrainState, *, same_optimizer: bool
) -> tuple[TrainState, list[str]]:
    """Return the state for a run's optimizer and EMA, and notes on what has changed.

    Args:
      run: The run to resume.
      state: State without stacks, with the variables of the run's model; moments and EMA may be
        those of other settings.
      same_optimizer: Whether the optimizer has the same name.
    """
    shapes = run.saved_shapes
    if same_optimizer and _layout(state) == _layout(shapes):
        return state, []
    kept = _match(state.opt_state, shapes.opt_state) if same_optimizer else {}
    notes = _describe_average(run, state) + _describe_moments(run, state, kept, same_optimizer)
    notes += _describe_parameters(run, state)

    def convert(state: TrainState) -> TrainState:
        before = jax.tree.leaves(state.opt_state)
        wide = state.variables["params"]
        leaves, structure = jax.tree.flatten(run.tx.init(wide))
        leaves = [
            before[kept[i]].astype(leaf.dtype) if i in kept else leaf
            for i, leaf in enumerate(leaves)
        ]
        average = state.ema or jax.tree.map(jnp.copy, state.variables)
        opt_state = jax.tree.unflatten(structure, leaves)
        average = average if shapes.ema else {}
        params = jax.tree.map(lambda p, shape: p.astype(shape.dtype), wide, shapes.params)
        return dataclasses.replace(state, params=params, opt_state=opt_state, ema=average)

    layout = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(convert, out_shardings=layout)(state), notes


def _read_optim(settings: Mapping[str, Any]) -> config_lib.Optim:
    """Return the optimizer section of a checkpoint; its values are not checked again."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    names = {field.name for field in dataclasses.fields(config_lib.Optim)}
    return config_lib.Optim(**{k: tuples(v) for k, v in settings.items() if k in names})


def _layout(state: TrainState) -> Any:
    """Return structure, shapes and dtypes; equal layouts need no conversion."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _match(before: Any, now: Any) -> dict[int, int]:
    """Return the index of the old leaf for each leaf of the new optimizer state that has one."""
    old, new = _by_name(before), _by_name(now)
    return {
        i: j
        for name in old.keys() & new.keys()
        if len(old[name]) == len(new[name])
        for (i, leaf), (j, was) in zip(new[name], old[name], strict=True)
        if leaf.shape == was.shape
    }


def _by_name(opt_state: Any) -> dict[str, list[tuple[int, Any]]]:
    """Return indices and leaves by field and parameter, such as `mu/head/bias`."""
    found = defaultdict(list)
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(opt_state)):
        keys = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        names = [key for key in keys if key is not None and key not in WRAPPERS]
        found["/".join(map(str, names))].append((i, leaf))
    return found


def _describe_average(run: Run, state: TrainState) -> list[str]:
    if run.shapes.ema and not state.ema:
        return [f"the moving average starts from the parameters of step {int(state.step):,}"]
    if state.ema and not run.shapes.ema:
        return ["the moving average is dropped, because config.optim.ema_decay is 0 now"]
    return []


def _describe_moments(
    run: Run, state: TrainState, kept: Mapping[int, int], same_optimizer: bool
) -> list[str]:
    now = jax.tree.leaves(run.saved_shapes.opt_state)
    before = jax.tree.leaves(state.opt_state)
    if not same_optimizer:
        name = run.config.optim.name
        return [f"the moments of {name} start at zero; step and parameters are kept"] if now else []
    notes = []
    if missing := len(now) - len(kept):
        notes.append(f"{missing} of the optimizer's {len(now)} moments and counts start at zero")
    if dropped := len(before) - len(set(kept.values())):
        notes.append(f"{dropped} of the optimizer's moments are dropped")
    if dtypes := {now[i].dtype.name for i, j in kept.items() if now[i].dtype != before[j].dtype}:
        notes.append(f"moments are converted to {' and '.join(sorted(dtypes))}")
    return notes


def _describe_parameters(run: Run, state: TrainState) -> list[str]:
    shapes = run.saved_shapes.params
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(state.params), strict=True)
    dtypes = {now.dtype.name for now, before in pairs if now.dtype != before.dtype}
    return [f"kernels are converted to {dtype}" for dtype in dtypes]


def _describe_changes(run: Run, saved: Mapping[str, Any]) -> list[str]:
    """Return notes on changed settings that have another effect in a resumed run."""
    notes = []
    if run.config.init_from != saved["init_from"]:
        problem = "has no effect: the run resumes from its own checkpoint"
        notes.append(f"config.init_from {problem}")
    before, now = saved["batch_size"], run.config.batch_size
    if before != now:
        notes.append(
            f"config.batch_size was {before} and is {now}: earlier steps count as steps of {now} "
            f"images in the schedule and in the order of the images"
        )
    old, new = (config_lib.flatten(c) for c in (saved, config_lib.as_dict(run.config)))
    for key in sorted(SAME_FUNCTION.keys() & old.keys() & new.keys()):
        if old[key] != new[key]:
            change = f"config.{key} was {old[key]} and is {new[key]}"
            notes.append(f"{change}: the model is the same, up to rounding")
    return notes
