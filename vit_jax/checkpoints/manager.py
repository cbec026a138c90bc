"""Save and restore the checkpoints of a run in training.

    save: Orbax writes in the background and renames -> every file is hashed -> seal.json
          -> older steps are removed, except the newest few and the best

A step without a seal is an incomplete save and is removed. A sealed step whose files do not match
the seal is corrupt, and the step before it is used. Orbax does not do this itself: it restores
flipped bits silently, and it removes old steps before the new one can be sealed.
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

Items = Mapping[str, Any]  # trees by item name (see `store`); `params` and `rest` are always there


@dataclasses.dataclass(frozen=True)
class IntactCheckpoint:
    """The newest intact checkpoint: its step and config, and the newer steps, which are corrupt."""

    step: int
    config: Mapping[str, Any]
    corrupt: tuple[int, ...]


class Checkpoints:
    """The checkpoints of a run in training.

    Args:
      directory: The directory of the steps, with one directory per step.
      keep: The number of newest checkpoints to keep. The best one is kept in any case.

    Raises:
      WorkdirError: The directory has checkpoints of another program.
    """

    def __init__(self, directory: epath.Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._remove_unsealed()
        self._manager: ocp.CheckpointManager | None = None
        self._sealing: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "seal")

    def find(
        self, meta: Mapping[str, Any], allowed: tuple[str, ...] = ()
    ) -> IntactCheckpoint | None:
        """Find the newest intact checkpoint.

        Args:
          meta: The `config` and `data` of the run. The checkpoint must belong to the same run.
          allowed: Keys that may differ.

        Returns:
          The checkpoint, or None if there is no checkpoint at all.

        Raises:
          CheckpointError: There are checkpoints, and all are corrupt.
          ConfigError: The checkpoint belongs to a run with other settings, or has weights only.
        """
        newest = hosts.run_on_host0(lambda: self._find(meta, allowed))
        if newest is None:
            return None
        step, config, corrupt = newest
        return IntactCheckpoint(step, config, tuple(corrupt))

    def restore(self, found: IntactCheckpoint, shapes: Items) -> dict[str, Any]:
        """Return the items of a checkpoint, and quarantine the corrupt checkpoints after it.

        Args:
          found: The checkpoint.
          shapes: Trees of `jax.ShapeDtypeStruct` with shardings, by item.

        Returns:
          Trees of `jax.Array`, by item.

        Raises:
          CheckpointError: The checkpoint cannot be read, or belongs to another model.
        """
        path = self._directory / str(found.step)
        store.check_collections(path, shapes)
        items = {name: store.read_item(path / name, tree) for name, tree in shapes.items()}
        self._quarantine(self._directory / str(step) for step in found.corrupt)
        return items

    def save(
        self, step: int, items: Items, meta: Mapping[str, Any], score: float | None = None
    ) -> bool:
        """Start to save a step. A background thread finishes and seals it.

        Args:
          step: The training step of the items.
          items: The items to save. Their buffers may be donated as soon as this returns.
          meta: The `config` and `data` of the run.
          score: The result of an evaluation of these items, or None. The highest score is the best.

        Returns:
          False if the step is sealed already. Then only its score is updated.

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
        with store.reporting_errors("save", self._directory / str(step)):
            self._manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args), force=True
            )
        self._sealing = self._thread.submit(self._finish, step, score)
        return True

    def wait(self) -> None:
        """Wait until the last save is sealed. Every host waits, because only host 0 seals.

        Raises:
          CheckpointError: The save failed.
        """
        if self._sealing is not None:
            hosts.run_and_compare(self._settle)

    def close(self) -> None:
        """Wait for the last save, and stop Orbax's threads."""
        try:
            self._settle()
        finally:
            self._thread.shutdown()
            if self._manager is not None:
                with store.reporting_errors("finish", self._directory):
                    self._manager.close()

    def best_score(self) -> float:
        """Return the highest score of a sealed step; minus infinity if no step has a score."""
        scores = hosts.run_on_host0(lambda: seals.scores(self._directory))
        return max(scores.values(), default=float("-inf"))

    def _find(
        self, meta: Mapping[str, Any], allowed: tuple[str, ...]
    ) -> tuple[int, dict[str, Any], list[int]] | None:
        """Return the newest intact step, its config, and the corrupt steps after it."""
        corrupt: dict[int, str] = {}
        for step in reversed(seals.sealed_steps(self._directory)):
            path = self._directory / str(step)
            problem = seals.find_corruption(path)
            if not problem:
                if not (path / store.REST).exists():
                    problem = "contains weights only, no optimizer state"
                    hint = "use a new --workdir, and --config.init_from for this one"
                    raise ConfigError("--workdir", f"{self._directory.parent} {problem}; {hint}")
                saved = store.read_meta(path)
                check_same_run(saved, meta, allowed)
                return step, saved["config"], list(corrupt)
            say(
                f"warning: the checkpoint of step {step} is corrupt ({problem}); using an older one"
            )
            corrupt[step] = problem
        if corrupt:
            problems = list_problems(self._directory, corrupt)
            raise CheckpointError(f"no intact checkpoint; tried {problems}")
        return None

    def _settle(self) -> None:
        """Wait until this host has finished its part of the last save."""
        if self._sealing is not None:
            sealing = self._sealing
            self._sealing = None
            with store.reporting_errors("save", self._directory):
                sealing.result()

    def _finish(self, step: int, score: float | None) -> None:
        assert self._manager is not None  # noqa: S101 - for the type checker
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            seals.seal(self._directory / str(step), score)
            self._remove_old()

    def _remove_old(self) -> None:
        """Remove all steps except the newest few and the best. Each loses its seal first."""
        steps = seals.sealed_steps(self._directory)
        kept = {*steps[-self._keep :], seals.best_step(self._directory)}
        for step in steps:
            if step not in kept:
                path = self._directory / str(step)
                (path / seals.SEAL).unlink()
                path.rmtree()

    def _quarantine(self, corrupt: Iterable[epath.Path]) -> None:
        """Rename corrupt steps, so that the same steps can be saved again."""
        for path in corrupt if jax.process_index() == 0 else ():
            quarantine = self._directory / f"damaged-{path.name}"
            if quarantine.exists():
                quarantine.rmtree()
            path.rename(quarantine)

    def _remove_unsealed(self) -> None:
        if jax.process_index() or not self._directory.exists():
            return
        for path in sorted(self._directory.iterdir()):
            number, tmp, _ = path.name.partition(seals.TMP)
            if not number.isdecimal() or (not tmp and (path / seals.SEAL).exists()):
                continue
            if not tmp and not store.is_incomplete_save(path):
                problem = f"{path} is not a checkpoint of vit_jax; move it away, or"
                raise WorkdirError(f"--workdir: {problem} use a new --workdir")
            say(f"checkpoint: removed step {path.name}, an incomplete save")
            path.rmtree()
