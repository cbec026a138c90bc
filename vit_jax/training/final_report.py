"""The report at the end of a run, from the predictions of its last evaluation."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.checkpoints import average
from vit_jax.console.progress import warn
from vit_jax.evaluation.analysis import analyse
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.requests import splits_read
from vit_jax.reporting.content import Content
from vit_jax.reporting.ranking import SETS
from vit_jax.reporting.writing import Shown, gather, write_report
from vit_jax.training.run import Run
from vit_jax.training.state import TrainState


def write_final_report(
    directory: epath.Path,
    run: Run,
    workdir: epath.Path,
    state: TrainState,
    results: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
) -> None:
    """Write the report of a run on host 0; any failure is a warning.

    Args:
      directory: The directory to write it to.
      run: The run.
      workdir: Its work directory.
      state: Its final state.
      results: The content of `results.json`.
      predictions: The predictions of the last evaluation, by set.
    """
    try:
        write_report(directory, lambda: _gather(run, workdir, state, results, predictions))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        warn(f"there is no report in {directory}: {reason:.300}")


def _gather(
    run: Run,
    workdir: epath.Path,
    state: TrainState,
    results: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
) -> Content:
    """Return what the report shows: one set in full, with the temperature fitted on `val`.

    There is no temperature if the set has images of `val`.
    """
    report: dict[str, Any] = {"step": results["step"], "eval": results["eval"]}
    sets = []
    names = [*SETS, *predictions]
    if name := next((name for name in names if name in predictions), None):
        found, source = predictions[name], run.splits[name]
        shares = splits_read(run.config, name) & splits_read(run.config, "val")
        analysis = analyse(
            found,
            weights=average.kind(run.config, ""),
            step=results["step"],
            fingerprint=source.fingerprint,
            validation=None if shares else predictions.get("val"),
        )
        report["analysis"] = {found.name: analysis}
        sets.append(Shown(found, source))
    trained = run.model, state.eval_variables
    return gather(workdir, [report], sets, run.config.data, lambda: trained)
