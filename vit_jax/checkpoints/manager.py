"""The checkpoints of a run in training, which count only once they are sealed.

    save: Orbax writes in the background and renames -> every file is hashed -> seal.json
          -> older steps beyond the newest few and the best are removed

A step without a seal never happened: its save was cut off. A sealed step whose files no longer
match is damaged, and the one before it is taken. (Orbax itself restores flipped bits silently,
and its own retention runs before a step can be sealed.)
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from vit_jax.checkpoints import seals, store
from vit_jax.checkpoints.reading import list_problems
from vit_jax.checkpoints.same_run import check_same_run
from vit_jax.cluster import hosts
from vit_jax.console.progress import say
from vit_jax.errors import CheckpointError, ConfigError, WorkdirError

Items = Mapping[str, Any]  # trees by the names of `store`, of which `params` and `rest` always


@dataclasses.dataclass(frozen=True)
class Found:
    """The newest good checkpoint: its step and config, and the damaged ones after it."""

    step: int
    config: Mapping[str, Any]
    damaged: tuple[int, ...]


class Checkpoints:
    """The checkpoints of a run that is being trained.

    Args:
      directory: Where the steps are, one directory each.
      keep: How many of the newest are kept, besides the best.

    Raises:
      WorkdirError: There are checkpoints of another program.
    """

    def __init__(self, directory: epath.Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._remove_unsealed()
        self._manager: ocp.CheckpointManager | None = None
        self._sealing: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "seal")

    def find(self, meta: Mapping[str, Any], allowed: tuple[str, ...] = ()) -> Found | None:
        """Return the newest good checkpoint, or None where there is none at all.

        Args:
          meta: The run's `config` and `data`; what was saved must be the same run.
          allowed: Keys that may differ all the same.

        Raises:
          CheckpointError: There are checkpoints, and none is good.
          ConfigError: The checkpoint is of a run with other settings.
        """
        newest = hosts.run_on_host0(lambda: self._find(meta, allowed))
        if newest is None:
            return None
        step, config, damaged = newest
        return Found(step, config, tuple(damaged))

    def restore(self, found: Found, shapes: Items) -> dict[str, Any]:
        """Return the items of a checkpoint; damaged ones after it are put aside with a warning.

        Args:
          found: The checkpoint.
          shapes: Shapes and shardings of each item, as they were saved.

        Raises:
          CheckpointError: It cannot be read, or it is of another model.
        """
        path = self._directory / str(found.step)
        store.check_collections(path, shapes)
        items = {name: store.read_item(path / name, tree) for name, tree in shapes.items()}
        self._put_aside(self._directory / str(step) for step in found.damaged)
        return items

    def save(
        self, step: int, items: Items, meta: Mapping[str, Any], score: float | None = None
    ) -> bool:
        """Start to save; the step counts once it is sealed, in the background.

        Returns False for a step that is sealed already; its score is noted.

        Args:
          step: Of the items.
          items: What to save. It may be donated as soon as this returns.
          meta: The run's `config` and `data`.
          score: From an evaluation of these very items; the highest is the best.

        Raises:
          CheckpointError: This save or the one before it failed.
        """
        self.wait()
        if hosts.run_on_host0(lambda: step in seals.sealed_steps(self._directory)):
            if score is not None and jax.process_index() == 0:
                seals.rescore(self._directory / str(step), score)
            return False
        if self._manager is None:
            self._manager = ocp.CheckpointManager(self._directory.absolute())
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        with store.failing("save", self._directory / str(step)):
            self._manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args), force=True
            )
        self._sealing = self._thread.submit(self._finish, step, score)
        return True

    def wait(self) -> None:
        """Wait until the last save is sealed; on every host, for it is host 0 that seals.

        Raises:
          CheckpointError: It failed.
        """
        if self._sealing is not None:
            hosts.run_and_compare(self._settle)

    def close(self) -> None:
        """Wait for the last save and end Orbax's threads."""
        try:
            self._settle()
        finally:
            self._thread.shutdown()
            if self._manager is not None:
                with store.failing("finish", self._directory):
                    self._manager.close()

    def best_score(self) -> float:
        """Return the highest score of a sealed step, or minus infinity."""
        scores = hosts.run_on_host0(lambda: seals.scores(self._directory))
        return max(scores.values(), default=float("-inf"))

    def _find(
        self, meta: Mapping[str, Any], allowed: tuple[str, ...]
    ) -> tuple[int, dict[str, Any], list[int]] | None:
        """Return the newest good step, its config, and the damaged ones after it."""
        damaged: dict[int, str] = {}
        for step in reversed(seals.sealed_steps(self._directory)):
            path = self._directory / str(step)
            problem = seals.find_damage(path)
            if not problem:
                if not (path / store.REST).exists():
                    problem = "contains weights only, no optimizer state"
                    hint = "use a new --workdir, and --config.init_from for this one"
                    raise ConfigError("--workdir", f"{self._directory.parent} {problem}; {hint}")
                saved = store.read_meta(path)
                check_same_run(saved, meta, allowed)
                return step, saved["config"], list(damaged)
            say(f"warning: checkpoint of step {step} is damaged ({problem}); taking the one before")
            damaged[step] = problem
        if damaged:
            problems = list_problems(self._directory, damaged)
            raise CheckpointError(f"no good checkpoint; tried {problems}")
        return None

    def _settle(self) -> None:
        """Wait until this host's part of the last save is done."""
        if self._sealing is not None:
            sealing = self._sealing
            self._sealing = None
            with store.failing("save", self._directory):
                sealing.result()

    def _finish(self, step: int, score: float | None) -> None:
        assert self._manager is not None  # noqa: S101 - for the type checker
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            seals.seal(self._directory / str(step), score)
            self._remove_old()

    def _remove_old(self) -> None:
        """Remove the steps that are neither among the newest nor the best; the seal goes first."""
        steps = seals.sealed_steps(self._directory)
        kept = {*steps[-self._keep :], seals.best_step(self._directory)}
        for step in steps:
            if step not in kept:
                path = self._directory / str(step)
                (path / seals.SEAL).unlink()
                path.rmtree()

    def _put_aside(self, damaged: Iterable[epath.Path]) -> None:
        """Rename damaged steps, so that the same steps can be saved again."""
        for path in damaged if jax.process_index() == 0 else ():
            aside = self._directory / f"damaged-{path.name}"
            if aside.exists():
                aside.rmtree()
            path.rename(aside)

    def _remove_unsealed(self) -> None:
        if jax.process_index() or not self._directory.exists():
            return
        for path in sorted(self._directory.iterdir()):
            number, tmp, _ = path.name.partition(seals.TMP)
            if not number.isdecimal() or (not tmp and (path / seals.SEAL).exists()):
                continue
            if not tmp and not store.is_cut_off(path):
                problem = f"{path} is no checkpoint of vit_jax; move it away, or"
                raise WorkdirError(f"--workdir: {problem} use a new --workdir")
            say(f"checkpoint: removed {path.name}, whose save never finished")
            path.rmtree()
