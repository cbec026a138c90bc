"""The training loop: when to step, evaluate and save, from the first step to the last."""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import seals
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.cluster import hosts, sharding
from vit_jax.cluster.exhaustion import explaining_exhaustion
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
from vit_jax.evaluation.predictions import Predictions
from vit_jax.training import results, resume, warm_start
from vit_jax.training import state as state_lib
from vit_jax.training.goodput import recording
from vit_jax.training.ledger import Ledger
from vit_jax.training.measuring import peak_images_per_second
from vit_jax.training.memory import advise, check_memory
from vit_jax.training.profiler import NO_STEPS, Profiler, Window
from vit_jax.training.reporter import Reporter
from vit_jax.training.run import Run, open_run
from vit_jax.training.stacked_state import unstack_state
from vit_jax.training.state import TrainState
from vit_jax.training.step import make_train_step
from vit_jax.training.tools import Tools


def train(
    resolved: config_lib.Resolved,
    workdir: epath.Path,
    allowed: tuple[str, ...] = (),
    window: Window = NO_STEPS,
    age: float = 0.0,
    report: epath.Path | None = None,
) -> dict[str, Any]:
    """Train, or resume, and return the content of `results.json`.

    Args:
      resolved: The settings of the run, and who set them.
      workdir: The work directory.
      allowed: Config keys that may differ from those that the run was started with.
      window: The steps to profile.
      age: Seconds that this attempt has taken already, such as those of the imports.
      report: The directory of the report at the end of the run; None for no report.

    Raises:
      UserError: An error that the user can fix; see `errors`.
    """
    ledger = Ledger(age)
    resolved = choose_splits(resolved)
    with PreemptionGuard() as stop, lock(workdir):
        run = _open(resolved.config, workdir)
        with jax.set_mesh(run.mesh), explaining_exhaustion("config.batch_size", advise(run)):
            _introduce(run, workdir, resolved.notes)
            checkpoints = Checkpoints(workdir / "checkpoints", run.config.checkpoint.keep)
            with waiting("verifying and restoring the newest checkpoint"):
                restored = resume.restore(run, checkpoints, allowed)
            state, changes = restored or (None, [])
            evaluation = Evaluation(run.evaluators, run.config, run.mesh, ledger.compiling)
            finished = hosts.run_on_host0(
                lambda: results.read_finished(run, workdir, state, evaluation)
            )
            if finished:
                return finished
            hosts.run_and_compare(run.objective.check)
            start = int(state.step) if state else 0
            _check_not_past_the_end(run, start)
            with recording(workdir, ledger, start):
                state = _resume(run, state, changes) if state else _start(run, ledger)
                stored.write(workdir, run.config, _origins(resolved, run))
                writer = MetricsWriter(workdir, start, tensorboard=run.config.log.tensorboard)
                profiler = Profiler(window, workdir, start, run.total_steps)
                tools = Tools(evaluation, checkpoints, writer, stop, ledger, profiler, report)
                try:
                    state, predictions = loop(run, state, tools)
                    return results.finish(run, workdir, state, tools, predictions)
                finally:
                    with ledger.book("saving"):
                        profiler.close()
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


def _start(run: Run, ledger: Ledger) -> TrainState:
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
    arguments = (run.model, run.tx, shape, config.seed, run.shapes, given, run.stacks)
    with waiting("initializing the weights"):
        return state_lib.init(*arguments, booking=ledger.compiling)


def _resume(run: Run, state: TrainState, changes: Sequence[str]) -> TrainState:
    """Return the state of the checkpoint that the run resumes from, and say so."""
    say(f"resume    from the checkpoint of step {int(state.step):,}")
    for note in changes:
        say(f"          {note}")
    return state


def _origins(resolved: config_lib.Resolved, run: Run) -> dict[str, str]:
    """Return the origin of each value; the number of classes may be inferred from the data."""
    origins = dict(resolved.origins)
    if run.config.model["num_classes"] != resolved.config.model["num_classes"]:
        origins["model.num_classes"] = f"data {run.splits['train'].name}"
    return origins


def loop(run: Run, state: TrainState, tools: Tools) -> tuple[TrainState, dict[str, Predictions]]:
    """Step, evaluate and save until the last step.

    Returns:
      The final state, which is saved, and for the report of the run, if it has one, the predictions
      of the last evaluation by set.

    Raises:
      Interrupted: A signal arrived; the state is saved.
      DivergedError: Too many steps in a row were not finite.
    """
    config, stop, book = run.config, tools.stop, tools.ledger.book
    step = int(state.step)
    best = tools.checkpoints.best_score()
    train_step = make_train_step(run)
    train_step = compiled_first(train_step, "training step", booking=tools.ledger.compiling)
    with waiting("loading the frozen variables of the objective"):
        frozen = run.objective.frozen(run.mesh, run.splits["train"])
    peak, idle = peak_images_per_second(run), functools.partial(tools.ledger.move, "steps", "data")
    reporter = Reporter(config, tools.writer, state, run.total_steps, peak, idle=idle)
    with contextlib.closing(reporter), _batches_after(run, step) as batches, book("steps"):
        while True:
            last = step >= run.total_steps
            evaluates = bool(run.watched) and (last or _due(config.eval.every_steps, step))
            saves = last or _due(config.checkpoint.every_steps, step)
            traces = tools.profiler.turns(step)
            stops = stop.poll()
            if stops or evaluates or saves or traces:
                reporter.drain()
            if traces:
                with book("saving"), reporter.pause():
                    tools.profiler.end_after(step)
            found = results.Evaluated({}, {})
            if evaluates:
                collects = last and tools.report is not None
                evaluate = functools.partial(
                    results.evaluate_watched, run, tools, state, collects=collects
                )
                with book("evaluation"):
                    found = reporter.evaluate(evaluate)
                stops = stop.requested  # which ends an evaluation
            score = run.best.score(found.results) if run.best else None
            if saves or stops or (score is not None and score > best):
                best = max(best, -math.inf if score is None else score)
                with book("saving"), reporter.pause():
                    _save(run, state, tools, score, wait=last or stops)
            if stops:
                raise Interrupted(f"at step {step:,}, saved; rerun the same command to continue")
            if last:
                return state, found.predictions
            if traces:  # neither an evaluation nor a save is part of the trace
                with book("saving"), reporter.pause():
                    tools.profiler.begin_after(step)
            batch = reporter.wait_for(batches)
            with tools.profiler.step(step + 1):
                state, metrics = train_step(state, sharding.to_global(batch, run.mesh), frozen)
            step += 1
            tools.ledger.count(config.batch_size)
            reporter.push(step, metrics)


@contextlib.contextmanager
def _batches_after(run: Run, step: int) -> Iterator[Iterator[loader.Batch]]:
    """Yield this host's part of the batches after a step; stop to read them at the end."""
    host, num_hosts = sharding.batch_shard(run.mesh)
    batches = loader.train_batches(
        run.splits["train"],
        run.config.data,
        run.config.batch_size,
        seed=run.config.seed,
        step=step,
        host=host,
        num_hosts=num_hosts,
    )
    try:
        yield batches
    finally:
        batches.close()


def _save(run: Run, state: TrainState, tools: Tools, score: float | None, *, wait: bool) -> None:
    """Save a checkpoint with its score, unless it is saved already; print a line if it is new."""
    step = int(state.step)
    tools.writer.flush()
    with waiting(f"saving the checkpoint of step {step:,}"):
        items = unstack_state(state, run.stacks).to_items()
        is_new = tools.checkpoints.save(step, items, run.fingerprint, score)
    tools.ledger.checkpoint(step)
    if is_new:
        say(f"save      step {step:,}")
    if wait:
        with waiting("finishing the last checkpoint"):
            tools.checkpoints.wait()


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
