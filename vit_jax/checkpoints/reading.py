"""Variables from the checkpoints of a run: which step, and its variables and class names."""

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
    """Return a step and its variables, for evaluation.

    Args:
      workdir: The run folder.
      step: A number, `best`, or `` for the newest good one.
      shapes: Trees of `jax.ShapeDtypeStruct` with shardings, by collection.
      ema: Whether to take the moving average, where the checkpoint has one.
      stored: What the `config.json` of the run says, to be compared; see `check_agreement`.
      allowed: Keys in which it may differ from the checkpoint.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The one that was requested is damaged, or all are, or it was trained with
        another config.
    """
    directory = workdir / "checkpoints"
    number = hosts.run_on_host0(lambda: _find(directory, step))
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
    """Return the newest good step and its variables as NumPy arrays; see `load_variables`."""
    directory = workdir / "checkpoints"
    number = _find(directory, "")
    if stored is not None:
        check_agreement(workdir, number, stored, allowed)
    path = directory / str(number)
    return number, store.read_numpy_variables(path, shapes, ema=ema and _has_average(path))


def read_class_names(workdir: epath.Path, step: int) -> tuple[str, ...]:
    """Return the classes that a checkpoint was trained on, in the order of the logits.

    Raises:
      CheckpointError: It does not say.
    """
    path = workdir / "checkpoints" / str(step)
    try:
        names = tuple(store.read_meta(path)["data"]["train_split"]["classes"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}/meta/metadata: names no classes") from error
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}/meta/metadata: a name of a class is no text")
    return names


def list_problems(directory: epath.Path, problems: Mapping[int, str]) -> str:
    """Return what is wrong with each step, in one line."""
    return "; ".join(f"{directory / str(step)}: {text}" for step, text in problems.items())


def _has_average(path: epath.Path) -> bool:
    """Return whether a checkpoint has a moving average, which it may lack; say if so."""
    found = (path / store.EMA).exists()
    if not found:
        say(f"note      step {path.name} has no moving average; its parameters are taken")
    return found


def _find(directory: epath.Path, step: str) -> int:
    """Return the requested step, after checking it against its seal."""
    steps = seals.sealed_steps(directory)
    if not steps:
        raise InputMissingError(f"{directory}: no checkpoint; train first")
    candidates = steps[::-1]
    if step:
        best = seals.best_step(directory) if step == "best" else None
        number = int(step) if step.isdecimal() else best
        if number not in steps:
            known = ", ".join(map(str, steps))
            raise InputMissingError(f"--step={step}: no such checkpoint; there are {known}")
        candidates = [number]
    damaged: dict[int, str] = {}
    for number in candidates:
        problem = seals.find_damage(directory / str(number))
        if not problem:
            return number
        say(f"warning: checkpoint of step {number} is damaged ({problem})")
        damaged[number] = problem
    raise CheckpointError(f"no good checkpoint; tried {list_problems(directory, damaged)}")
