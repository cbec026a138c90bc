"""The report at the end of a run, from the predictions of its last evaluation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.console.progress import warn
from vit_jax.evaluation.analysis import analyse
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.requests import splits_read
from vit_jax.reporting.content import Content
from vit_jax.reporting.writing import Shown, gather, write_report
from vit_jax.training.run import Run
from vit_jax.training.state import TrainState

# The sets that a report may show in full: the first one that there is.
_ORDER = ("test", "val")


@dataclasses.dataclass(frozen=True)
class FinalReport:
    """The report of a run.

    Args:
      directory: The directory to write it to.
      predictions: The predictions of the last evaluation by the name of the set, as they come in.
    """

    directory: epath.Path
    predictions: dict[str, Predictions] = dataclasses.field(default_factory=dict)

    def write(
        self, run: Run, workdir: epath.Path, state: TrainState, results: Mapping[str, Any]
    ) -> None:
        """Write the report on host 0; any failure is a warning.

        Args:
          run: The run.
          workdir: Its work directory.
          state: Its final state.
          results: The content of `results.json`.
        """
        try:
            write_report(self.directory, lambda: self._gather(run, workdir, state, results))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            warn(f"there is no report in {self.directory}: {reason:.300}")

    def _gather(
        self, run: Run, workdir: epath.Path, state: TrainState, results: Mapping[str, Any]
    ) -> Content:
        """Return what the report shows: one set in full, with the temperature fitted on `val`.

        There is no temperature if the set has images of `val`.
        """
        report: dict[str, Any] = {"step": results["step"], "eval": results["eval"]}
        sets = []
        names = [*_ORDER, *self.predictions]
        if name := next((name for name in names if name in self.predictions), None):
            found, source = self.predictions[name], run.splits[name]
            shares = splits_read(run.config, name) & splits_read(run.config, "val")
            analysis = analyse(
                found,
                weights="ema" if state.ema else "",
                step=results["step"],
                fingerprint=source.fingerprint,
                validation=None if shares else self.predictions.get("val"),
            )
            report["analysis"] = {found.name: analysis}
            sets.append(Shown(found, source))
        trained = run.model, state.eval_variables
        return gather(workdir, [report], sets, run.config.data, lambda: trained)
