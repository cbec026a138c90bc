"""The training loop: when to step, evaluate and save, from the first step to the last."""

import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import seals
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.cluster import hosts, sharding
from vit_jax.cluster.preemption import PreemptionGuard
from vit_jax.config import stored
from vit_jax.console.metrics_writer import MetricsWriter
from vit_jax.console.progress import say
from vit_jax.console.waiting import cache_directory, compiled_first, waiting
from vit_jax.console.workdir import lock, owner
from vit_jax.data import loader
from vit_jax.data.sources.folder import choose_splits
from vit_jax.errors import ConfigError, Interrupted
from vit_jax.evaluation.loop import Evaluation
from vit_jax.training import results, resume, warm_start
from vit_jax.training import state as state_lib
from vit_jax.training.memory import check_memory
from vit_jax.training.reporter import Reporter
from vit_jax.training.run import Run, open_run
from vit_jax.training.stacked_state import unstack_state
from vit_jax.training.state import TrainState
from vit_jax.training.step import make_train_step


def train(
    resolved: config_lib.Resolved, workdir: epath.Path, allowed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Train, or resume, and return the content of `results.json`.

    Args:
      resolved: The settings of the run, and who set them.
      workdir: The work directory.
      allowed: Config keys that may differ from those that the run was started with.

    Raises:
      UserError: An error that the user can fix; see `errors`.
    """
    resolved = choose_splits(resolved)
    config = resolved.config
    with PreemptionGuard() as stop, lock(workdir):
        run = _open(config, workdir)
        with jax.set_mesh(run.mesh):
            _introduce(run, workdir, resolved.notes)
            checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
            with waiting("verifying and restoring the newest checkpoint"):
                restored = resume.restore(run, checkpoints, allowed)
            state, changes = restored or (None, [])
            evaluation = Evaluation(run.evaluators, run.config, run.mesh)
            finished = hosts.run_on_host0(
                lambda: results.read_finished(run, workdir, state, evaluation)
            )
            if finished:
                return finished
            hosts.run_and_compare(run.objective.check)
            if state is None:
                state = _start(run)
            else:
                say(f"resume    from the checkpoint of step {int(state.step):,}")
                for note in changes:
                    say(f"          {note}")
                _check_not_past_the_end(run, int(state.step))
            stored.write(workdir, run.config, _origins(resolved, run))
            writer = MetricsWriter(workdir, int(state.step), tensorboard=config.log.tensorboard)
            began = time.monotonic()
            start = int(state.step)
            try:
                state = loop(run, state, evaluation, checkpoints, writer, stop)
                seconds = time.monotonic() - began
                with waiting("finishing the last checkpoint"):
                    checkpoints.wait()
                speed = (int(state.step) - start) * config.batch_size / max(seconds, 1e-9)
                pace = {"train_seconds": round(seconds, 2), "images_per_second": round(speed, 1)}
                return results.finish(run, workdir, state, evaluation, writer, stop, pace)
            finally:
                writer.close()
                checkpoints.close()


def _open(config: config_lib.Config, workdir: epath.Path) -> Run:
    """Open the run on every host, and check that the hosts agree and the run fits into memory."""
    with waiting("opening the data sets and the model"):
        run = hosts.run_and_compare(
            lambda: open_run(config), lambda run: _shared_by_hosts(run, workdir)
        )
        hosts.run_and_compare(lambda: check_memory(run))
    return run


def _introduce(run: Run, workdir: epath.Path, notes: Sequence[str]) -> None:
    """Print what is about to happen, and where its files are written."""
    for line in run.describe():
        say(line)
    for note in (*run.notes, *notes):
        say(f"note      {note}")
    say(f"workdir   {workdir} (config.json, metrics.jsonl, checkpoints/)")
    if where := cache_directory():
        say(f"cache     {where} (compiled programs)")


def _start(run: Run) -> TrainState:
    """Return the state at step 0: random, or with the variables of `init_from`."""
    config = run.config
    notes = ["no checkpoint here: from step 0"]
    given: dict[str, jax.Array] = {}
    if config.init_from:
        with waiting(f"reading the weights in {config.init_from}"):
            given, notes = warm_start.load_variables(run)
    first, *others = notes
    say(f"start     {first}")
    for note in others:
        say(f"          {note}")
    shape = config.data.image_shape
    with waiting("initializing the weights"):
        return state_lib.init(run.model, run.tx, shape, config.seed, run.shapes, given, run.stacks)


def _origins(resolved: config_lib.Resolved, run: Run) -> dict[str, str]:
    """Return the origin of each value; the number of classes may be inferred from the data."""
    origins = dict(resolved.origins)
    if run.config.model["num_classes"] != resolved.config.model["num_classes"]:
        origins["model.num_classes"] = f"data {run.splits['train'].name}"
    return origins


def loop(
    run: Run,
    state: TrainState,
    evaluation: Evaluation,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    stop: PreemptionGuard,
) -> TrainState:
    """Step, evaluate and save until the last step; return the final state, which is saved.

    Raises:
      Interrupted: A signal arrived; the state is saved.
      DivergedError: Too many steps in a row were not finite.
    """
    config = run.config
    step = int(state.step)
    best = checkpoints.best_score()
    train_step = compiled_first(make_train_step(run), "training step")
    with waiting("loading the frozen variables of the objective"):
        frozen = run.objective.frozen(run.mesh, run.splits["train"])
    images = run.splits["train"]
    host, num_hosts = sharding.batch_shard(run.mesh)
    shard = {"host": host, "num_hosts": num_hosts}
    batches = loader.train_batches(
        images, config.data, config.batch_size, seed=config.seed, step=step, **shard
    )
    reporter = Reporter(config, writer, state, run.total_steps)
    try:
        while True:
            last = step >= run.total_steps
            evaluates = bool(run.watched) and (last or _due(config.eval.every_steps, step))
            saves = last or _due(config.checkpoint.every_steps, step)
            if stop.poll() or evaluates or saves:
                reporter.drain()
            found = {}
            if evaluates:
                arguments = run, evaluation, state, writer, stop
                found = reporter.evaluate(functools.partial(results.evaluate_watched, *arguments))
            score = run.best.score(found) if run.best else None
            if saves or stop.requested or (score is not None and score > best):
                best = max(best, -math.inf if score is None else score)
                writer.flush()
                with reporter.pause():
                    _save(run, state, checkpoints, score)
            if stop.requested:
                with waiting("finishing the last checkpoint"):
                    checkpoints.wait()
                raise Interrupted(f"at step {step:,}, saved; rerun the same command to continue")
            if last:
                return state
            batch = sharding.to_global(reporter.wait_for(batches), run.mesh)
            state, step_metrics = train_step(state, batch, frozen)
            step += 1
            reporter.push(step, step_metrics)
    finally:
        reporter.close()
        batches.close()


def _save(run: Run, state: TrainState, checkpoints: Checkpoints, score: float | None) -> None:
    """Save a checkpoint with its score, unless it is saved already; print a line if it is new."""
    step = int(state.step)
    with waiting(f"saving the checkpoint of step {step:,}"):
        items = unstack_state(state, run.stacks).to_items()
        is_new = checkpoints.save(step, items, run.fingerprint, score)
    if is_new:
        say(f"save      step {step:,}")


def _shared_by_hosts(run: Run, workdir: epath.Path) -> dict[str, Any]:
    """Return what must be the same on all hosts, such as what is in the work directory."""
    shared = "is it the same directory on all hosts?"
    return {
        "--workdir": str(workdir),
        **config_lib.shared_by_hosts(run.config, run.fingerprint["data"]),
        f"{workdir / '.lock'} ({shared})": owner(workdir),
        f"newest of {workdir / 'checkpoints'} ({shared})": (
            seals.sealed_steps(workdir / "checkpoints")[-1:]
        ),
    }


def _check_not_past_the_end(run: Run, step: int) -> None:
    if step > run.total_steps:
        problem = f"the run is already at step {step:,}, after the end at step {run.total_steps:,}"
        raise ConfigError("config.total_steps", f"{problem}; set it to {step} or more")


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
