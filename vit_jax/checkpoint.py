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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vit_jax import config as config_lib
from vit_jax import hosts, seals
from vit_jax.errors import CheckpointError, ConfigError, InputMissingError, suggest
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
        found = hosts.first(lambda: self._find(meta, allowed))
        if found is None:
            return None
        step, damaged = found
        state = _read_state(self._directory / str(step), shapes)
        self._put_aside(self._directory / str(step) for step in damaged)
        return state

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
        if hosts.first(lambda: step in seals.sealed_steps(self._directory)):
            if score is not None and jax.process_index() == 0:
                seals.rescore(self._directory / str(step), score)
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
        """Waits until the last save is sealed; on every host, for it is host 0 that seals.

        Raises:
          CheckpointError: It failed.
        """
        if self._sealing is not None:
            hosts.agree(self._settle)

    def close(self) -> None:
        """Waits for the last save and ends Orbax's threads."""
        try:
            self._settle()
        finally:
            self._thread.shutdown()
            if self._manager is not None:
                with _failing("finish", self._directory):
                    self._manager.close()

    def best_score(self) -> float:
        """Returns the highest score of a sealed step, or minus infinity."""
        scores = hosts.first(lambda: seals.scores(self._directory))
        return max(scores.values(), default=float("-inf"))

    def _find(
        self, meta: Mapping[str, Any], allowed: tuple[str, ...]
    ) -> tuple[int, list[int]] | None:
        """Returns the newest good step, and the damaged ones after it."""
        tried: dict[int, str] = {}
        for step in reversed(seals.sealed_steps(self._directory)):
            path = self._directory / str(step)
            problem = seals.find_damage(path)
            if not problem:
                if not (path / "rest").exists():
                    problem = "holds weights, no training; take another, and config.init_from for"
                    raise ConfigError("--workdir", f"{self._directory.parent} {problem} this")
                _check_same_run(_read_meta(path), meta, allowed)
                return step, list(tried)
            say(f"warning: checkpoint of step {step} is damaged ({problem}); taking the one before")
            tried[step] = problem
        if tried:
            raise CheckpointError(f"no good checkpoint; tried {_list(self._directory, tried)}")
        return None

    def _settle(self) -> None:
        """Waits until this host's part of the last save is done."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            with _failing("save", self._directory):
                sealing.result()

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

    def _put_aside(self, damaged: Iterable[epath.Path]) -> None:
        """Renames damaged steps, so that the same steps can be saved again."""
        for path in damaged if jax.process_index() == 0 else ():
            aside = self._directory / f"damaged-{path.name}"
            if aside.exists():
                aside.rmtree()
            path.rename(aside)

    def _remove_unsealed(self) -> None:
        if jax.process_index() or not self._directory.exists():
            return
        for path in sorted(self._directory.iterdir()):
            unsealed = path.name.isdecimal() and not (path / seals.SEAL).exists()
            if unsealed or seals.TMP in path.name:
                say(f"checkpoint: removed {path.name}, whose save never finished")
                path.rmtree()


def write_params(
    workdir: epath.Path, params: Any, data: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Writes parameters that were not trained here as the sealed checkpoint of step 0.

    Args:
      workdir: The run folder.
      params: The tree of NumPy arrays.
      data: What a trained run says about its data; the classes at least.
      config: The resolved config.

    Raises:
      CheckpointError: It cannot be written.
    """
    path = workdir / "checkpoints" / "0"
    # By default Orbax copies all arrays first, and collects all that it writes: twice the memory.
    numpy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy))
    arrays = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    with _failing("save", path):
        with ocp.Checkpointer(arrays) as checkpointer:
            checkpointer.save((path / "params").absolute(), params)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            checkpointer.save((path / "meta").absolute(), {"config": config, "data": data})
        seals.seal(path, None)


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
    number = hosts.first(lambda: _find(directory, step))
    return number, _read(directory / str(number) / ("ema" if ema else "params"), shapes)


def load_arrays(workdir: epath.Path, shapes: Any, *, ema: bool) -> tuple[int, Any]:
    """Returns the parameters of the newest good step as NumPy arrays, and the step.

    Args:
      workdir: Of the run.
      shapes: Of the parameters.
      ema: Whether to take the moving average.

    Raises:
      InputMissingError: There is no checkpoint.
      CheckpointError: All are damaged.
    """
    found: dict[str, Any] = {}
    number = _find(workdir / "checkpoints", "")
    path = workdir / "checkpoints" / str(number) / ("ema" if ema else "params")
    with _failing("restore", path), ocp.PyTreeCheckpointer() as checkpointer:
        _check_shapes(path, shapes)
        for key, part in shapes.items():  # one by one: all at once take twice the memory
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), {key: part})
            args = ocp.args.PyTreeRestore({key: part}, restore_args=kinds, partial_restore=True)
            found |= checkpointer.restore(path.absolute(), args=args)
    return number, found


def _find(directory: epath.Path, step: str) -> int:
    """Returns the good step that is asked for."""
    steps = seals.sealed_steps(directory)
    if not steps:
        raise InputMissingError(f"{directory}: no checkpoint; train first")
    wanted = steps[::-1]
    if step:
        best = seals.best_step(directory) if step == "best" else None
        number = int(step) if step.isdecimal() else best
        if number not in steps:
            known = ", ".join(map(str, steps))
            raise InputMissingError(f"--step={step}: no such checkpoint; there are {known}")
        wanted = [number]
    tried: dict[int, str] = {}
    for number in wanted:
        problem = seals.find_damage(directory / str(number))
        if not problem:
            return number
        say(f"warning: checkpoint of step {number} is damaged ({problem})")
        tried[number] = problem
    raise CheckpointError(f"no good checkpoint; tried {_list(directory, tried)}")


def read_class_names(workdir: epath.Path, step: int) -> tuple[str, ...]:
    """Returns the classes that a checkpoint was trained on, in the order of the logits."""
    return tuple(_read_meta(workdir / "checkpoints" / str(step))["data"]["train_split"]["classes"])


def _check_same_run(
    saved: Mapping[str, Any], now: Mapping[str, Any], allowed: tuple[str, ...]
) -> None:
    """Refuses settings and data that are not those that the run was started with."""
    saved, now = (json.loads(json.dumps(meta)) for meta in (saved, now))
    before, after = (config_lib.flatten(meta["config"]) for meta in (saved, now))
    free = [key.removeprefix("config.") for key in allowed]
    for name in free:
        if not any(_is_within(key, name) for key in {**before, **after}):
            problem = f"no field config.{name}; {suggest(name, after)}"
            raise ConfigError("--allow_config_change", problem)
    changed = [
        key
        for key in config_lib.changed_keys(saved["config"], now["config"])
        if not any(_is_within(key, name) for name in free)
    ]
    if changed:
        key = changed[0]
        others = f" (and {', '.join(changed[1:])})" * (len(changed) > 1)
        raise ConfigError(
            f"config.{key}",
            f"this run was started with {before.get(key)!r}, not {after.get(key)!r}{others}; "
            f"take a new --workdir, or --allow_config_change={key}",
        )
    for field, was in saved["data"].items():
        key, found = f"data.{field}", now["data"].get(field)
        if found != was and not any(_is_within(key, name) for name in free):
            raise ConfigError(
                f"config.{key}",
                f"the data are not those that this run was started with: {was} then, {found} "
                f"now; --allow_config_change={key} goes on all the same",
            )


def _is_within(key: str, name: str) -> bool:
    """Returns whether a dotted key is the named one, or in the named section."""
    return key == name or key.startswith(f"{name}.")


def _check_shapes(path: epath.Path, shapes: Any) -> None:
    """Refuses parameters that are not those of the model, by name."""
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path.absolute()).tree
    found, expected = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape) for p, leaf in tree}
        for tree in map(jax.tree_util.tree_leaves_with_path, (saved, shapes))
    )
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"{path}: the checkpoint is of another model: {name} is "
                f"{found.get(name, 'not there')}, expected {expected.get(name, 'none')}"
            )


def _list(directory: epath.Path, tried: Mapping[int, str]) -> str:
    return "; ".join(f"{directory / str(step)}: {problem}" for step, problem in tried.items())


def _read_meta(path: epath.Path) -> dict[str, Any]:
    return json.loads((path / "meta" / "metadata").read_text())


def _read_state(path: epath.Path, shapes: TrainState) -> TrainState:
    rest = _read(path / "rest", {key: getattr(shapes, key) for key in _ALL_BUT_PARAMS})
    params = _read(path / "params", shapes.params)
    ema = _read(path / "ema", shapes.ema) if shapes.ema else {}
    return TrainState(params=params, ema=ema, **rest)


def _read(path: epath.Path, shapes: Any) -> Any:
    with _failing("restore", path), ocp.StandardCheckpointer() as checkpointer:
        if path.name != "rest":
            _check_shapes(path, shapes)
        return checkpointer.restore(path.absolute(), shapes)


@contextlib.contextmanager
def _failing(verb: str, path: epath.Path) -> Iterator[None]:
    """Turns what Orbax and the file system raise into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot {verb} the checkpoint: {first[:300]}") from error
