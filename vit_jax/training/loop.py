"""The loop: when to step, evaluate and save, from the first step to `results.json`."""

import functools
import json
import math
import time
from collections.abc import Mapping
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
from vit_jax.console.progress import format_seconds, say
from vit_jax.console.workdir import lock, owner, write_json
from vit_jax.data import loader
from vit_jax.errors import ConfigError, Interrupted
from vit_jax.evaluation.evaluator import (
    EvalResult,
    EvalStep,
    evaluate,
    format_result,
    make_eval_step,
)
from vit_jax.training import state as state_lib
from vit_jax.training import warm_start
from vit_jax.training.reporter import Reporter
from vit_jax.training.run import Run, open_run
from vit_jax.training.state import TrainState
from vit_jax.training.step import make_train_step


def train(
    resolved: config_lib.Resolved, workdir: epath.Path, allowed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Train, or resume, and return what `results.json` holds.

    Args:
      resolved: The settings of the run, and who set them.
      workdir: The run folder.
      allowed: Config keys that may differ from those that the run was started with.

    Raises:
      UserError: Something that the user can mend; see `errors`.
    """
    config = resolved.config
    with PreemptionGuard() as stop, lock(workdir):
        run = hosts.run_and_compare(
            lambda: open_run(config), lambda run: _shared_by_hosts(run, workdir)
        )
        with jax.set_mesh(run.mesh):
            say("\n".join(run.describe()))
            for note in resolved.notes:
                say(f"note      {note}")
            say(f"workdir   {workdir}")
            checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
            items = checkpoints.restore(run.shapes.to_items(), run.fingerprint, allowed)
            state = TrainState.from_items(items) if items else None
            finished = hosts.run_on_host0(lambda: _read_finished(run, workdir, state))
            if finished:
                return finished
            if state is None:
                state = _start(run)
            else:
                say(f"resume    from the checkpoint of step {int(state.step):,}")
                _check_not_past_the_end(run, int(state.step))
            stored.write(workdir, run.config, _origins(resolved, run))
            writer = MetricsWriter(workdir, int(state.step), tensorboard=config.log.tensorboard)
            eval_step = make_eval_step(run.model, run.loss_fn, config.data, run.mesh)
            began = time.monotonic()
            start = int(state.step)
            try:
                state = loop(run, state, eval_step, checkpoints, writer, stop)
                seconds = time.monotonic() - began
                checkpoints.wait()
                speed = (int(state.step) - start) * config.batch_size / max(seconds, 1e-9)
                pace = {"train_seconds": round(seconds, 2), "images_per_second": round(speed, 1)}
                return _finish(run, workdir, state, eval_step, writer, stop, pace)
            finally:
                writer.close()
                checkpoints.close()


def _start(run: Run) -> TrainState:
    """Return the state at step 0: random, or with the parameters of `init_from`."""
    config = run.config
    notes = ["no checkpoint here: from step 0"]
    given: dict[str, jax.Array] = {}
    if config.init_from:
        given, notes = warm_start.load_parameters(run)
    first, *others = notes
    say(f"start     {first}")
    for note in others:
        say(f"          {note}")
    shape = config.data.image_shape
    return state_lib.init(run.model, run.tx, shape, config.seed, run.shapes, given)


def _origins(resolved: config_lib.Resolved, run: Run) -> dict[str, str]:
    """Return who set each value; the number of classes may come from the data."""
    origins = dict(resolved.origins)
    if run.config.model["num_classes"] != resolved.config.model["num_classes"]:
        origins["model.num_classes"] = f"data {run.splits['train'].name}"
    return origins


def loop(
    run: Run,
    state: TrainState,
    eval_step: EvalStep,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    stop: PreemptionGuard,
) -> TrainState:
    """Step, evaluate and save until the end; the state that comes back is saved.

    Raises:
      Interrupted: A signal came; the state is saved.
      DivergedError: Too many steps in a row were not finite.
    """
    config = run.config
    step = int(state.step)
    best = checkpoints.best_score()
    train_step = make_train_step(run)
    teacher = run.restore_teacher()
    host, num_hosts = sharding.batch_shard(run.mesh)
    batches = loader.train_batches(
        run.splits["train"],
        config.data,
        config.batch_size,
        seed=config.seed,
        step=step,
        host=host,
        num_hosts=num_hosts,
    )
    reporter = Reporter(config, writer, state, run.total_steps)
    try:
        while True:
            last = step >= run.total_steps
            evaluates = "val" in run.splits and (last or _due(config.eval.every_steps, step))
            saves = last or _due(config.checkpoint.every_steps, step)
            if stop.poll() or evaluates or saves:
                reporter.drain()
            score = None
            if evaluates and not hosts.run_on_host0(functools.partial(writer.find, step, "val")):
                results = _evaluate(run, eval_step, state, "val", stop)
                if results:
                    writer.write(step, config_lib.flatten(results, separator="/"))
                    score = results["val"]["top1"]
            if saves or stop.requested or (score is not None and score > best):
                best = max(best, -math.inf if score is None else score)
                writer.flush()
                if checkpoints.save(step, state.to_items(), run.fingerprint, score):
                    say(f"save      step {step:,}")
            if stop.requested:
                checkpoints.wait()
                raise Interrupted(f"at step {step:,}, saved; rerun the same command to continue")
            if last:
                return state
            batch = sharding.to_global(reporter.wait_for(batches), run.mesh)
            state, step_metrics = train_step(state, batch, teacher)
            step += 1
            reporter.push(step, step_metrics)
    finally:
        reporter.close()
        batches.close()


def _shared_by_hosts(run: Run, workdir: epath.Path) -> dict[str, Any]:
    """Return what must be the same on all hosts; a work directory of its own would show here."""
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
        problem = f"the run is at step {step:,} already, past the end at {run.total_steps:,}"
        raise ConfigError("config.total_steps", problem)


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _evaluate(
    run: Run, eval_step: EvalStep, state: TrainState, name: str, stop: PreemptionGuard
) -> dict[str, EvalResult]:
    """Return the figures of a split, and beside those of an average (`NAME_raw`) without it.

    Returns nothing where a signal came before the end.
    """
    results = {}
    params = {name: state.eval_params} | ({f"{name}_raw": state.params} if state.ema else {})
    for label, tree in params.items():
        result = evaluate(
            eval_step,
            tree,
            run.splits[name],
            run.config,
            run.mesh,
            label=label,
            stopped=stop.poll,
        )
        if not result:
            return {}
        say(f"evaluate  step {int(state.step):,}  {format_result(label, result)}")
        results[label] = result
    return results


def _finish(
    run: Run,
    workdir: epath.Path,
    state: TrainState,
    eval_step: EvalStep,
    writer: MetricsWriter,
    stop: PreemptionGuard,
    pace: Mapping[str, float],
) -> dict[str, Any]:
    """Evaluate on the test split, write `results.json` and print a summary.

    The pace is that of this process: of a resumed run, only the last part.
    """
    step = int(state.step)
    results = {name: found for name in ("val", "val_raw") if (found := writer.find(step, name))}
    if "test" in run.splits:
        tested = _evaluate(run, eval_step, state, "test", stop)
        if not tested:
            raise Interrupted("in the last evaluation; rerun the same command to continue")
        writer.write(step, config_lib.flatten(tested, separator="/"))
        results |= tested
    scores = seals.scores(workdir / "checkpoints")
    best = seals.best_step(workdir / "checkpoints")
    content = {
        "step": step,
        "eval": results,
        "best": {"step": best, "val_top1": scores[best]} if best is not None else {},
        "parameters": run.num_parameters,
        "skipped": int(state.skipped),
        "unreadable": {name: len(source.unreadable) for name, source in run.splits.items()},
        **pace,
    }
    write_json(workdir / "results.json", content)
    took = format_seconds(pace["train_seconds"])
    say(f"done      step {step:,}, {took} of training  {workdir / 'results.json'}")
    return content


def _read_finished(run: Run, workdir: epath.Path, state: TrainState | None) -> dict[str, Any]:
    """Return the results of a run that has nothing left to do, or nothing."""
    path = workdir / "results.json"
    if state is None or int(state.step) < run.total_steps or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["step"] != run.total_steps:
            return {}
    except (ValueError, KeyError, TypeError):  # not ours: written again at the end
        return {}
    say(f"finished  this run is complete: step {content['step']:,} of {run.total_steps:,}")
    for name, result in content["eval"].items():
        say(f"          {format_result(name, result)}")
    return content
