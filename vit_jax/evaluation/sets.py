"""The sets that a command evaluates: their sources, label sets, predictions and reports."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_jax.cluster import hosts
from vit_jax.config import shared_by_hosts
from vit_jax.console.progress import say
from vit_jax.console.waiting import waiting
from vit_jax.data.sources import Source
from vit_jax.data.sources.registry import note_on_order
from vit_jax.errors import ConfigError, DataError, InputMissingError, suggest
from vit_jax.evaluation import label_sets, prediction_table, summary
from vit_jax.evaluation.analysis import Document, analyse
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.requests import Request, open_images, resolve, splits_read
from vit_jax.evaluation.subjects import Measured, Subject


class Keep(NamedTuple):
    """What is kept of the predictions for each set after its analysis."""

    table: bool = False  # rows of the table of predictions
    logits: bool = False
    features: bool = False


@dataclasses.dataclass(eq=False)
class EvaluatedSet:
    """A set of images, and what was measured on it so far."""

    request: Request
    source: Source
    match: label_sets.Match | None = None  # the classes by its label set, if it has one
    predictions: Predictions | None = None  # by the first weights, if they are kept
    tables: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)  # by each weights
    report: dict[str, Any] = dataclasses.field(default_factory=dict)  # plain JSON

    @property
    def name(self) -> str:
        """The name of the report's file: the label of the first result, and that of a label set."""
        label = next(iter(self.report["eval"]))
        return f"{label}-{self.match.name}" if self.match else label

    @property
    def splits_read(self) -> frozenset[tuple[str, str, str]]:
        """The splits that the set reads, whole or in part."""
        return splits_read(self.request.resolved.config, self.request.split)

    def measure(self, subject: Subject) -> Measured:
        """Return what a model has on the set."""
        relabel = self.match and functools.partial(
            label_sets.apply, match=self.match, file_name=self.source.file_name
        )
        return subject.measure(self.source, self.request.split, relabel)


def open_sets(
    requests: Sequence[Request], subject: Subject, labelled: bool, chosen: Sequence[str]
) -> list[EvaluatedSet]:
    """Open the sources of requests, and say what is evaluated on what.

    Args:
      requests: The requests, all for the run of the subject.
      subject: The model.
      labelled: Whether the labels are the classes of the model.
      chosen: The label sets: `NAME` is for all sets, `SET=NAME` for one.

    Raises:
      UserError: The images cannot be opened, or they have other classes.
    """
    label_set_of = _find_label_sets(chosen, [request.split for request in requests])
    sets, notes = [], []
    for request in requests:
        label_set = label_set_of.get(request.split)
        source = _open(request, subject, labelled and label_set is None)
        match = None
        notes += [*request.resolved.notes, *source.notes]
        if label_set is not None:
            match = label_sets.match(label_set, source.class_names, subject.trained.labels)
            notes += match.notes
        elif labelled and not subject.trained.class_names:
            notes.append(note_on_order(source))
        sets.append(EvaluatedSet(request, source, match))
    titles = ", ".join(found.source.title for found in sets)
    say(f"evaluate  {subject.workdir}, step {subject.trained.step:,}, on {titles}")
    for note in dict.fromkeys(notes):
        say(f"note      {note}")
    return sets


def open_validation(
    name: str | None,
    sets: Sequence[EvaluatedSet],
    subject: Subject,
    overrides: Mapping[str, str],
) -> EvaluatedSet | None:
    """Return the set that temperatures are fitted to; None if there is none.

    Args:
      name: The name of the set; None for `val`, if the run has it.
      sets: The sets that are evaluated; the first names the run.
      subject: The model.
      overrides: The settings that the flags set, by path.

    Raises:
      ConfigError: The run has no such set.
    """
    chosen, first = "val" if name is None else name, sets[0].request
    for found in sets:
        if found.request.split == chosen and found.match is None:
            return found
    if name and name not in first.known:
        raise ConfigError("--calibrate", f"no set '{name}'; {suggest(name, first.known)}")
    if chosen not in first.known or not subject.predicts:
        return None
    try:
        request = resolve(str(first.workdir), chosen, overrides)
        return EvaluatedSet(request, _open(request, subject, True))
    except (ConfigError, DataError, InputMissingError) as error:
        if name:
            raise
        say(f"note      no temperature is fitted: {error}")
        return None


def measure(
    sets: Sequence[EvaluatedSet], subject: Subject, validation: EvaluatedSet | None, keep: Keep
) -> None:
    """Measure a model on each set, print that, and add it to the sets.

    Args:
      sets: The sets.
      subject: The model.
      validation: The set that the temperature is fitted to.
      keep: What is kept of the predictions; the rest is only in memory until the next set.
    """
    fitted = validation.measure(subject) if validation else None
    for found in sets:
        measured = fitted if fitted and found is validation else found.measure(subject)
        _add(found, subject, measured, validation, fitted and fitted.predictions, keep)
        del measured  # before the next pass


def _add(
    found: EvaluatedSet,
    subject: Subject,
    measured: Measured,
    validation: EvaluatedSet | None,
    fitted: Predictions | None,
    keep: Keep,
) -> None:
    """Add what a model has on a set to the set, and print it."""
    report, predictions = found.report, measured.predictions
    report.setdefault("step", subject.trained.step)
    if found.match:
        report["label_set"] = found.match.name
    report.setdefault("eval", {}).update(measured.results)
    report.setdefault("intervals", {}).update(measured.intervals)
    for line in measured.lines:
        say(line)
    if predictions is None:
        return
    _say_left_out(found, predictions)
    is_other = validation and not found.splits_read & validation.splits_read
    analysis = _analyse(found, subject, predictions, fitted if is_other else None)
    report.setdefault("analysis", {})[predictions.name] = analysis
    for line in summary.describe(analysis):
        say(line)
    if validation and (note := _note_on_temperature(found, validation, analysis)):
        say(f"note      {note}")
    if keep.table:
        found.tables.append(prediction_table.columns(predictions))
    if keep.logits and found.predictions is None:
        found.predictions = predictions if keep.features else predictions.without_features()


def _note_on_temperature(found: EvaluatedSet, validation: EvaluatedSet, analysis: Document) -> str:
    """Return why a set has no temperature, or for which classes; empty if that is clear."""
    name = validation.request.split
    if found is validation:
        return f"no temperature on {name}, to which it is fitted"
    if found.splits_read & validation.splits_read:
        where = found.request.split
        return f"no temperature on {where}: {name} is of the same split, and may share images"
    if analysis["temperature"] is None:
        return f"no temperature: none is best for {name}"
    if found.match:
        return f"the temperature is fitted over all classes of {name}, not those of the label set"
    return ""


def _say_left_out(found: EvaluatedSet, predictions: Predictions) -> None:
    count = len(found.source) - predictions.skipped - len(predictions.labels)
    if count:
        say(f"images    {count:,} of other classes are left out")


def _analyse(
    found: EvaluatedSet,
    subject: Subject,
    predictions: Predictions,
    validation: Predictions | None,
) -> Document:
    with waiting(f"resampling the images of {predictions.title} for the intervals"):
        return analyse(
            predictions,
            weights=subject.weights,
            step=subject.trained.step,
            fingerprint=found.source.fingerprint,
            validation=validation,
        )


def _find_label_sets(texts: Sequence[str], names: Sequence[str]) -> dict[str, label_sets.LabelSet]:
    """Return the label set of each named set."""
    found: dict[str, label_sets.LabelSet] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        label_set = label_sets.find_label_set(rest if name in names else text)
        found |= {name: label_set} if name in names else dict.fromkeys(names, label_set)
    return found


def _open(request: Request, subject: Subject, checked: bool) -> Source:
    """Open images on every host; if asked, check that they have the classes of the model."""
    config, trained = request.resolved.config, subject.trained
    expected = (trained.class_names, config.model["num_classes"]) if checked else ()
    with waiting("opening the data set"):
        return hosts.run_and_compare(
            lambda: open_images(request, *expected),
            lambda source: shared_by_hosts(config, {request.field: source.fingerprint}),
        )
