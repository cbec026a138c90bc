"""Checkpoints that count only once they are sealed.

    save: Orbax writes in the background and renames -> every file is hashed -> seal.json
          -> older steps beyond the newest few and the best go

A step without a seal never happened: its save was cut off. A sealed step whose files no longer
match is damaged, and the one before it is taken. (Orbax itself restores flipped bits in silence,
and its own retention runs before a step can be sealed.)
"""

import concurrent.futures
import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from vit_jax import config as config_lib
from vit_jax import seals
from vit_jax.errors import CheckpointError, ConfigError, InputMissingError
from vit_jax.logs import say
from vit_jax.state import TrainState

_ALL_BUT_PARAMS = ("step", "skipped", "opt_state")


class Checkpoints:
    """The checkpoints of a run that is being trained.

    Args:
      directory: Where the steps lie, one directory each.
      keep: How many of the newest stay, besides the best.
    """

    def __init__(self, directory: epath.Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._remove_unsealed()
        self._manager: ocp.CheckpointManager | None = None
        self._sealing: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "seal")

    def restore(
        self, shapes: TrainState, meta: Mapping[str, Any], allowed: tuple[str, ...] = ()
    ) -> TrainState | None:
        """Returns the newest good state, or None where there is no checkpoint at all.

        Damaged ones are put aside with a warning.

        Args:
          shapes: Shapes and layout of the state.
          meta: The run's `config` and `data`; what was saved must be the same run.
          allowed: Keys that may differ all the same.

        Raises:
          CheckpointError: There are checkpoints, and none is good.
          ConfigError: The checkpoint is of a run with other settings.
        """
        tried: dict[epath.Path, str] = {}
        for step in reversed(seals.sealed_steps(self._directory)):
            path = self._directory / str(step)
            problem = seals.find_damage(path)
            if not problem:
                _check_same_run(_read_meta(path), meta, allowed)
                state = _read_state(path, shapes)
                for damaged in tried:  # so that their steps can be saved again
                    damaged.rename(self._directory / f"damaged-{damaged.name}")
                return state
            say(f"warning: checkpoint of step {step} is damaged ({problem}); taking the one before")
            tried[path] = problem
        if tried:
            raise CheckpointError(f"no good checkpoint; tried {_list(tried)}")
        return None

    def save(
        self, step: int, state: TrainState, meta: Mapping[str, Any], score: float | None = None
    ) -> bool:
        """Starts to save; the step counts once it is sealed, in the background.

        Returns False for a step that is sealed already; its score is noted.

        Args:
          step: The state's step.
          state: What to save. It may be donated as soon as this returns.
          meta: The run's `config` and `data`.
          score: Of an evaluation of this very state; the highest is the best.

        Raises:
          CheckpointError: This save or the one before it failed.
        """
        self.wait()
        if step in seals.sealed_steps(self._directory):
            if score is not None:
                seals.seal(self._directory / str(step), score)
            return False
        if self._manager is None:
            self._manager = ocp.CheckpointManager(self._directory.absolute())
        rest = {key: getattr(state, key) for key in _ALL_BUT_PARAMS}
        items = {"params": state.params, "rest": rest} | ({"ema": state.ema} if state.ema else {})
        args = {key: ocp.args.StandardSave(item) for key, item in items.items()}
        with _failing("save", self._directory / str(step)):
            self._manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args), force=True
            )
        self._sealing = self._thread.submit(self._finish, step, score)
        return True

    def wait(self) -> None:
        """Waits until the last save is sealed.

        Raises:
          CheckpointError: It failed.
        """
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            with _failing("save", self._directory):
                sealing.result()

    def close(self) -> None:
        """Waits for the last save and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._manager is not None:
                self._manager.close()

    def best_score(self) -> float:
        """Returns the highest score of a sealed step, or minus infinity."""
        return max(seals.scores(self._directory).values(), default=float("-inf"))

    def _finish(self, step: int, score: float | None) -> None:
        assert self._manager is not None  # noqa: S101 - for the type checker
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            seals.seal(self._directory / str(step), score)
            self._remove_old()

    def _remove_old(self) -> None:
        """Removes the steps that are neither among the newest nor the best; the seal goes first."""
        steps = seals.sealed_steps(self._directory)
        kept = {*steps[-self._keep :], seals.best_step(self._directory)}
        for step in steps:
            if step not in kept:
                path = self._directory / str(step)
                (path / seals.SEAL).unlink()
                path.rmtree()

    def _remove_unsealed(self) -> None:
        if jax.process_index() or not self._directory.exists():
            return
        for path in sorted(self._directory.iterdir()):
            unsealed = path.name.isdecimal() and not (path / seals.SEAL).exists()
            if unsealed or seals.TMP in path.name:
                say(f"checkpoint: removed {path.name}, whose save never finished")
                path.rmtree()


def load_params(workdir: epath.Path, step: str, shapes: Any, *, ema: bool) -> tuple[int, Any]:
    """Returns the parameters to evaluate, and their step.

    Args:
      workdir: Of the run.
      step: A number, `best`, or `` for the newest good one.
      shapes: Shapes and layout of the parameters.
      ema: Whether to take the moving average.

    Raises:
      InputMissingError: There is no such checkpoint.
      CheckpointError: The one asked for is damaged, or all are.
    """
    directory = workdir / "checkpoints"
    steps = seals.sealed_steps(directory)
    if not steps:
        raise InputMissingError(f"{directory}: no checkpoint; train first")
    wanted = steps[::-1]
    if step:
        number = (
            seals.best_step(directory)
            if step == "best"
            else int(step)
            if step.isdecimal()
            else None
        )
        if number not in steps:
            known = ", ".join(map(str, steps))
            raise InputMissingError(f"--step={step}: no such checkpoint; there are {known}")
        wanted = [number]
    tried: dict[epath.Path, str] = {}
    for number in wanted:
        path = directory / str(number)
        problem = seals.find_damage(path)
        if not problem:
            return number, _read(path / ("ema" if ema else "params"), shapes)
        say(f"warning: checkpoint of step {number} is damaged ({problem})")
        tried[path] = problem
    raise CheckpointError(f"no good checkpoint; tried {_list(tried)}")


def _check_same_run(
    saved: Mapping[str, Any], now: Mapping[str, Any], allowed: tuple[str, ...]
) -> None:
    saved, now = (json.loads(json.dumps(meta)) for meta in (saved, now))
    changed = [
        key
        for key in config_lib.changed_keys(saved["config"], now["config"])
        if not any(key == free or key.startswith(f"{free}.") for free in allowed)
    ]
    before, after = config_lib.flatten(saved["config"]), config_lib.flatten(now["config"])
    if changed:
        key = changed[0]
        others = f" (and {', '.join(changed[1:])})" * (len(changed) > 1)
        raise ConfigError(
            f"config.{key}",
            f"this run was started with {before.get(key)!r}, not {after.get(key)!r}{others}; "
            f"take a new --workdir, or --allow_config_change={key}",
        )
    for key, value in saved["data"].items():
        same = now["data"].get(key) == value or any(free.startswith("data") for free in allowed)
        if not same:
            raise ConfigError(
                f"config.data.{key}",
                f"the data set is not the one this run was started with: {value} then, "
                f"{now['data'].get(key)} now; --allow_config_change=data goes on all the same",
            )


def _list(tried: Mapping[epath.Path, str]) -> str:
    return "; ".join(f"{path}: {problem}" for path, problem in tried.items())


def _read_meta(path: epath.Path) -> dict[str, Any]:
    return json.loads((path / "meta" / "metadata").read_text())


def _read_state(path: epath.Path, shapes: TrainState) -> TrainState:
    rest = _read(path / "rest", {key: getattr(shapes, key) for key in _ALL_BUT_PARAMS})
    params = _read(path / "params", shapes.params)
    ema = _read(path / "ema", shapes.ema) if shapes.ema else {}
    return TrainState(params=params, ema=ema, **rest)


def _read(path: epath.Path, shapes: Any) -> Any:
    with _failing("restore", path), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), shapes)


@contextlib.contextmanager
def _failing(verb: str, path: epath.Path) -> Iterator[None]:
    """Turns what Orbax and the file system raise into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot {verb} the checkpoint: {first[:300]}") from error
