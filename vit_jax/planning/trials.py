"""Trials of a search: steps that were compiled with changed settings, and whether they fit."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from vit_jax import config as config_lib
from vit_jax.errors import UserError
from vit_jax.planning.changes import Change, apply


@runtime_checkable
class Measured(Protocol):
    """What a search reads of the report on a step."""

    @property
    def peak_bytes(self) -> int:
        """Peak memory of a device."""

    @property
    def limit_bytes(self) -> int | None:
        """Memory of a device that a program can use; None if it is not known."""

    @property
    def fits(self) -> bool:
        """Whether the peak is within the limit."""

    @property
    def num_devices(self) -> int:
        """Number of devices."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON document."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A step that was compiled, or the reason why it cannot be.

    Attributes:
      change: The settings that differ from the config.
      report: The report on the step; None if it cannot be compiled.
      problem: Why it cannot be compiled.
    """

    change: Change
    report: Measured | None
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Whether the step is known to fit."""
        return self.report is not None and self.report.fits

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a JSON document."""
        report = self.report.to_json() if self.report else None
        return {"change": dict(self.change), "report": report, "problem": self.problem}

    def describe(self) -> str:
        """Return a row of a table: change, peak, whether it fits."""
        text = to_flags(self.change).replace("--config.", "")
        if self.report is None:
            return f"{text}: {self.problem}"
        peak = self.report.peak_bytes / 2**30
        return f"{text:<42} {peak:9.2f} GiB  {'fits' if self.fits else 'too large'}"


class Trials:
    """The trials of a search, in order; each is made once.

    Args:
      config: The config that is changed.
      first: The report on its step.
      measure: Compiles the step of a config.
      tell: Is called with a line about each further trial.
    """

    def __init__(
        self,
        config: config_lib.Config,
        first: Measured,
        measure: Callable[[config_lib.Config], Measured],
        tell: Callable[[str], None],
    ) -> None:
        self.made = [Trial({"batch_size": config.batch_size}, first)]
        self._config = config
        self._measure = measure
        self._tell = tell

    def measure(self, change: Change) -> Measured:
        """Compile the step with changed settings.

        Raises:
          UserError: The step cannot be compiled.
        """
        for trial in self.made:
            if trial.change == change and trial.report:
                return trial.report
        report = self._measure(apply(self._config, change))
        self._add(Trial(change, report))
        return report

    def attempt(self, change: Change) -> bool:
        """Return whether the step fits with changed settings; a problem counts as no."""
        try:
            return self.measure(change).fits
        except UserError as error:
            self._add(Trial(change, None, str(error)))
            return False

    @property
    def reports(self) -> dict[int, Measured]:
        """The reports on the whole step, in which only the batch size changes, by batch size."""
        return {
            trial.change["batch_size"]: trial.report
            for trial in self.made
            if trial.report and trial.change.keys() == {"batch_size"}
        }

    @property
    def sizes(self) -> dict[int, bool]:
        """Whether the whole step fits by batch size; one that cannot be compiled does not."""
        only_size = (t for t in self.made if t.change.keys() == {"batch_size"})
        return {trial.change["batch_size"]: trial.fits for trial in only_size}

    def _add(self, trial: Trial) -> None:
        self.made.append(trial)
        self._tell(f"          {trial.describe()}")


def to_flags(change: Mapping[str, Any]) -> str:
    """Return changed settings as flags of the command line."""
    return " ".join(f"--config.{path}={_to_text(value)}" for path, value in change.items())


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
