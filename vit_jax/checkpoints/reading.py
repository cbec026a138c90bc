"""Read variables and class names from the checkpoints of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax.checkpoints import seals, store
from vit_jax.checkpoints.agreement import check_agreement
from vit_jax.cluster import hosts
from vit_jax.config import Config
from vit_jax.console.progress import say
from vit_jax.errors import CheckpointError, InputMissingError


def load_variables(
    workdir: epath.Path,
    step: str,
    shapes: Mapping[str, Any],
    *,
    ema: bool,
    stored: Config | None = None,
    allowed: Sequence[str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Load the variables of one checkpoint, for evaluation.

    Args:
      workdir: The run folder.
      step: A step number, `best`, or an empty string for the newest intact checkpoint.
      shapes: Trees of `jax.ShapeDtypeStruct` with shardings, by collection.
      ema: Whether to read the EMA of the weights, if the checkpoint has one.
      stored: The config in `config.json`, to compare with the checkpoint; see `check_agreement`.
        None skips the comparison.
      allowed: Keys that may differ between `stored` and the checkpoint.

    Returns:
      The step number, and the variables by collection: trees of `jax.Array` with the shardings of
      `shapes`.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The requested checkpoint is corrupt, or all of them are, or it was trained
        with another config.
    """
    directory = workdir / "checkpoints"
    number = hosts.run_on_host0(lambda: _find_step(directory, step))
    if stored is not None:
        check_agreement(workdir, number, stored, allowed)
    path = directory / str(number)
    return number, store.read_variables(path, shapes, ema=ema and _has_average(path))


def load_arrays(
    workdir: epath.Path,
    shapes: Mapping[str, Any],
    *,
    ema: bool,
    stored: Config | None = None,
    allowed: Sequence[str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Load the variables of the newest intact checkpoint as NumPy arrays.

    Args:
      workdir: The run folder.
      shapes: Trees of `jax.ShapeDtypeStruct`, by collection.
      ema: Whether to read the EMA of the weights, if the checkpoint has one.
      stored: The config in `config.json`, or None; see `load_variables`.
      allowed: Keys that may differ between `stored` and the checkpoint.

    Returns:
      The step number, and the variables by collection: trees of `np.ndarray`.

    Raises:
      InputMissingError: There is no checkpoint.
      CheckpointError: All checkpoints are corrupt, or it was trained with another config.
    """
    directory = workdir / "checkpoints"
    number = _find_step(directory, "")
    if stored is not None:
        check_agreement(workdir, number, stored, allowed)
    path = directory / str(number)
    return number, store.read_numpy_variables(path, shapes, ema=ema and _has_average(path))


def read_class_names(workdir: epath.Path, step: int) -> tuple[str, ...]:
    """Return the class names that a checkpoint was trained on, in the order of the logits.

    Args:
      workdir: The run folder.
      step: The step of the checkpoint.

    Raises:
      CheckpointError: The checkpoint has no list of class names.
    """
    path = workdir / "checkpoints" / str(step)
    try:
        names = tuple(store.read_meta(path)["data"]["train_split"]["classes"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}/meta/metadata: has no class names") from error
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}/meta/metadata: a class name is not a string")
    return names


def list_problems(directory: epath.Path, problems: Mapping[int, str]) -> str:
    """Return one line with the problem of each step.

    Args:
      directory: The directory of the steps.
      problems: One problem per step.
    """
    return "; ".join(f"{directory / str(step)}: {text}" for step, text in problems.items())


def _has_average(path: epath.Path) -> bool:
    """Return whether a checkpoint has an EMA of the weights; print a note if it has none."""
    has_average = (path / store.EMA).exists()
    if not has_average:
        say(f"note      step {path.name} has no moving average (EMA); its raw weights are used")
    return has_average


def _find_step(directory: epath.Path, step: str) -> int:
    """Return the number of the requested step, after a check of its seal."""
    steps = seals.sealed_steps(directory)
    if not steps:
        raise InputMissingError(f"{directory}: no checkpoint; train first")
    candidates = steps[::-1]
    if step:
        best = seals.best_step(directory) if step == "best" else None
        number = int(step) if step.isdecimal() else best
        if number not in steps:
            existing = ", ".join(map(str, steps))
            raise InputMissingError(f"--step={step}: no such checkpoint; there are {existing}")
        candidates = [number]
    corrupt: dict[int, str] = {}
    for number in candidates:
        problem = seals.find_corruption(directory / str(number))
        if not problem:
            return number
        say(f"warning: the checkpoint of step {number} is corrupt ({problem})")
        corrupt[number] = problem
    raise CheckpointError(f"no intact checkpoint; tried {list_problems(directory, corrupt)}")
