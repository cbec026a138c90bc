"""The results of a run: evaluations of its sets, and the file `results.json`."""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import seals
from vit_jax.cluster import hosts
from vit_jax.console.documents import read_json
from vit_jax.console.progress import format_seconds, say, warn
from vit_jax.console.workdir import RESULTS, write_json
from vit_jax.errors import Interrupted
from vit_jax.evaluation.evaluators import Result
from vit_jax.evaluation.loop import Evaluation
from vit_jax.evaluation.predictions import Predictions
from vit_jax.training import goodput
from vit_jax.training.final_report import write_final_report
from vit_jax.training.run import Run
from vit_jax.training.state import TrainState
from vit_jax.training.tools import Tools


class Evaluated(NamedTuple):
    """The metrics on sets, and the predictions that they come from where these were collected."""

    results: dict[str, Result]  # by label; empty if nothing was evaluated
    predictions: dict[str, Predictions]  # by set, of the weights that the run is evaluated with


def evaluate_watched(run: Run, tools: Tools, state: TrainState, *, collects: bool) -> Evaluated:
    """Evaluate the sets that are evaluated during training, and write the metrics.

    Metrics that are written already are not evaluated again, unless predictions are collected.

    Args:
      run: The run.
      tools: What it works with.
      state: The state to evaluate.
      collects: Whether to collect the predictions.

    Returns:
      The metrics and predictions; empty if nothing was evaluated, or if a signal stopped it.
    """
    step = int(state.step)
    is_written = hosts.run_on_host0(functools.partial(tools.writer.find, step, run.watched[0]))
    if is_written and not collects:
        return Evaluated({}, {})
    found = _evaluate(run, tools, state, run.watched, collects=collects)
    if found.results and not is_written:
        tools.writer.write(step, config_lib.flatten(found.results, separator="/"))
    return found


def _evaluate(
    run: Run, tools: Tools, state: TrainState, names: Sequence[str], *, collects: bool
) -> Evaluated:
    """Return the metrics on sets; with an EMA, also those of the raw weights (`NAME_raw`).

    Both are empty if a signal stopped the evaluation.
    """
    evaluation, stopped = tools.evaluation, tools.stop.poll
    results: dict[str, Result] = {}
    predictions: dict[str, Predictions] = {}
    for name in names:
        source = run.splits[name]
        for raw in _kinds(state):
            variables = state.variables if raw else state.eval_variables
            if collects and not raw:
                found, made = evaluation.collect(variables, source, name, stopped=stopped)
                predictions |= {name: made} if made else {}
            else:
                found = evaluation(variables, source, name, raw=raw, stopped=stopped)
            if not found:
                return Evaluated({}, {})
            for line in evaluation.format(name, found, raw=raw):
                say(f"evaluate  step {int(state.step):,}  {line}")
            results |= found
    return Evaluated(results, predictions)


def _kinds(state: TrainState) -> tuple[bool, ...]:
    """Return for each evaluation of a set whether it uses the raw weights, not the EMA."""
    return (False, True) if state.ema else (False,)


def finish(
    run: Run,
    workdir: epath.Path,
    state: TrainState,
    tools: Tools,
    predictions: Mapping[str, Predictions],
) -> dict[str, Any]:
    """Evaluate on the test split, write `results.json` and the report, and print a summary.

    Args:
      run: The run.
      workdir: Its work directory.
      state: Its final state.
      tools: What it works with.
      predictions: The predictions of the last evaluation, by set.

    Raises:
      Interrupted: A signal arrived.
    """
    step = int(state.step)
    evaluation, ledger = tools.evaluation, tools.ledger
    results: dict[str, Any] = {}
    for name in run.watched:
        for raw in _kinds(state):
            for label in evaluation.labels(name, raw=raw).values():
                results |= {label: found} if (found := tools.writer.find(step, label)) else {}
    if "test" in run.splits:
        with ledger.book("evaluation"):
            tested = _evaluate(run, tools, state, ("test",), collects=tools.report is not None)
        if not tested.results:
            raise Interrupted("during the last evaluation; rerun the same command to continue")
        tools.writer.write(step, config_lib.flatten(tested.results, separator="/"))
        results |= tested.results
        predictions = {**predictions, **tested.predictions}
    history = ledger.history()
    account = history.account
    content = {
        "step": step,
        "eval": results,
        "intervals": _intervals(run, evaluation, state, results),
        "best": _describe_best(run, workdir),
        "parameters": run.num_parameters,
        "skipped": int(state.skipped),
        "unreadable": {name: len(source.unreadable) for name, source in run.splits.items()},
        "train_seconds": round(account.train_seconds, 2),
        "images_per_second": round(account.images_per_second, 1),
        "compile_seconds": {name: round(s, 2) for name, s in ledger.compile_seconds.items()},
        "goodput": goodput.summarize(history),
    }
    content["sha256"] = _digest(content)
    write_json(workdir / RESULTS, content)
    took = format_seconds(account.train_seconds)
    say(f"done      step {step:,} in {took}  {workdir / 'results.json'}")
    if tools.report is not None:
        with ledger.book("evaluation"):
            write_final_report(tools.report, run, workdir, state, content, predictions)
    return content


def _intervals(
    run: Run, evaluation: Evaluation, state: TrainState, results: Mapping[str, Result]
) -> dict[str, Any]:
    """Return the 95 % intervals of the accuracies, by label of the result and metric."""
    found: dict[str, Any] = {}
    for name in (*run.watched, "test"):
        for raw in _kinds(state):
            found |= evaluation.intervals(name, results, raw=raw)
    return found


def _describe_best(run: Run, workdir: epath.Path) -> dict[str, Any]:
    """Return the step of the best checkpoint and its metric, if there is one."""
    directory = workdir / "checkpoints"
    step = seals.best_step(directory)
    if run.best is None or step is None:
        return {}
    return {"step": step, run.best.name: run.best.signed(seals.scores(directory)[step])}


def read_finished(
    run: Run, workdir: epath.Path, state: TrainState | None, evaluation: Evaluation
) -> dict[str, Any]:
    """Return the results of a finished run, or an empty dictionary."""
    path = workdir / RESULTS
    if state is None or int(state.step) < run.total_steps or not path.exists():
        return {}
    content = _read(path)
    if (
        content.get("step") != run.total_steps
    ):  # the file of a shorter run; it is written again at the end
        return {}
    say(f"finished  this run is complete: step {content['step']:,} of {run.total_steps:,}")
    figures = {  # JSON has no NaN; null stands for it
        label: {key: math.nan if value is None else value for key, value in result.items()}
        for label, result in content["eval"].items()
    }
    for name in [*run.watched, "test"]:
        for raw in _kinds(state):
            for line in evaluation.format(name, figures, raw=raw):
                say(f"          {line}")
    return content


def _read(path: epath.Path) -> dict[str, Any]:
    """Return the content of `results.json`, or an empty dictionary if it is corrupt."""
    with contextlib.suppress(OSError, ValueError):
        content = read_json(path)
        if isinstance(content, dict) and content.get("sha256") == _digest(content):
            return content
    warn(f"{path} is corrupt, or of an older version; the run is evaluated again")
    return {}


def _digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of the content without the digest itself."""
    body = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
