"""What the folders of runs say about them: model, data, accuracies, time; read from JSON alone.

Runs may come from strangers: a value of another type or range than expected counts as missing.
"""

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from vit_jax.config import SPLITS, stored
from vit_jax.console.workdir import EVALUATIONS, RESULTS
from vit_jax.evaluation.statistics.intervals import wilson
from vit_jax.reporting.run_folder import read_documents, read_object

# A folder with one of these is a run, or was meant to be one.
MARKS = (stored.CONFIG, RESULTS, "checkpoints")

# How deep the folders of runs may lie in a directory.
DEPTH = 4

# A larger number is damage.
LARGEST = 10**15


class Score(NamedTuple):
    """The accuracy of a run on a set, with Wilson's 95 % interval."""

    split: str  # what the set is in the data of the run, such as `train[90%:]`
    images: int
    top1: float
    low: float
    high: float
    loss: float | None


class RunSummary(NamedTuple):
    """One run; None and empty text stand for what is not known."""

    name: str
    model: str
    parameters: int | None
    image_size: str
    data: str
    step: int | None
    length: str  # the length of the training that was asked for, such as `30 epochs`
    scores: Mapping[str, Score]  # by label of the set
    seconds: float | None  # of training
    goodput: float | None
    date: str
    problem: str  # why something is missing; empty if the run is complete


def is_run(directory: epath.Path) -> bool:
    """Return whether a folder has a file of a run."""
    return any((directory / mark).exists() for mark in MARKS)


def find_runs(directory: epath.Path, depth: int = DEPTH) -> Iterator[epath.Path]:
    """Yield the folders of runs: the directory itself, or those in it, in order of their names.

    Args:
      directory: A folder.
      depth: How deep to look.
    """
    if is_run(directory):
        yield directory
    elif depth and directory.is_dir():
        for child in sorted(directory.iterdir()):
            if not child.name.startswith(".") and child.is_dir():
                yield from find_runs(child, depth - 1)


def read_run(directory: epath.Path, name: str) -> RunSummary:
    """Return what the folder of a run says; whatever is wrong with it is its `problem`.

    Args:
      directory: The folder.
      name: How to call the run.
    """
    documents = read_documents(directory)
    settings, results, goodput = documents.settings, documents.results, documents.goodput
    step, scores, unread = _evaluations(directory, settings, results)
    problems = [*documents.problems, *unread]
    if not results and not problems:
        problems.append(_unfinished(directory))
    total = _integer(settings.get("total_steps"))
    if total and results and step is not None and step < total:
        problems.append(f"the results are of step {step:,} of {total:,}")
    if results and not scores:
        problems.append("the results have no top-1 accuracy")
    return RunSummary(
        name=name,
        model=_text(settings.get("model.name")),
        parameters=_integer(results.get("parameters")),
        image_size=_image_size(settings.get("data.image_size")),
        data=_data(settings),
        step=step,
        length=_length(settings),
        scores=scores,
        seconds=_number(results.get("train_seconds")),
        goodput=_share(goodput.get("goodput")),
        date=_date(directory, goodput),
        problem="; ".join(problems),
    )


def _evaluations(
    directory: epath.Path, settings: Mapping[str, Any], results: Mapping[str, Any]
) -> tuple[int | None, dict[str, Score], list[str]]:
    """Return the step of the results, the scores of each set at this step, and what is not read.

    Without results, it is the newest step that was evaluated. Sets that the results do not have
    come from the evaluations of the same step.
    """
    files = _evaluation_files(directory)
    step = _integer(results.get("step")) if results else max(files.values(), default=None)
    read = [read_object(path) for path, of_step in files.items() if of_step == step]
    found: dict[str, Any] = {}
    for report in [*(report for report, _ in read), results]:
        # A label set has other classes; with other settings, it is another evaluation.
        if not report.get("label_set") and not report.get("settings"):
            found |= _object(report.get("eval"))
    scores = {label: _score(label, result, settings) for label, result in found.items()}
    known = {label: score for label, score in scores.items() if score is not None}
    return step, known, [problem for _, problem in read if problem]


def _evaluation_files(directory: epath.Path) -> dict[epath.Path, int]:
    """Return the files of evaluations, `STEP-NAME.json`, with their steps."""
    folder = directory / EVALUATIONS
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = {path: re.fullmatch(r"(\d{1,15})-.+\.json", path.name) for path in paths}
    return {path: int(match[1]) for path, match in matches.items() if match}


def _score(label: str, result: Any, settings: Mapping[str, Any]) -> Score | None:
    """Return the accuracy in a result; None if there is none."""
    figures = _object(result)
    top1, count = _share(figures.get("top1")), _integer(figures.get("count"))
    if top1 is None or not count:
        return None
    split = _text(settings.get(f"data.{SPLITS[label]}")) if label in SPLITS else ""
    interval = wilson(round(top1 * count), count)
    return Score(split or label, count, top1, *interval, _number(figures.get("loss")))


def _unfinished(directory: epath.Path) -> str:
    """Return why a run has no results."""
    if (directory / "origin.json").exists():
        return "converted weights, which have no results of a training"
    folder = directory / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = [int(name) for name in names if re.fullmatch(r"\d{1,15}", name)]
    saved = f"its newest checkpoint is of step {max(steps):,}" if steps else "it has no checkpoint"
    return f"the training has not finished; {saved}"


def _data(settings: Mapping[str, Any]) -> str:
    """Return the name of the data set, or that of the folder of images."""
    root = _text(settings.get("data.root")).rstrip("/")
    return _text(settings.get("data.name")) or root.rpartition("/")[2]


def _length(settings: Mapping[str, Any]) -> str:
    for unit in ("steps", "epochs", "images"):
        if length := _number(settings.get(f"total_{unit}")):
            return f"{length:,.10g} {unit}"
    return ""


def _image_size(value: Any) -> str:
    sides = [_integer(side) for side in value] if isinstance(value, list) else []
    return f"{sides[0]}x{sides[1]}" if len(sides) == 2 and all(sides) else ""


def _date(directory: epath.Path, goodput: Mapping[str, Any]) -> str:
    """Return the day of the end of a training, in UTC: that of `goodput.json` or of its results."""
    written = _number(goodput.get("written"))
    if written is None and (directory / RESULTS).exists():
        written = (directory / RESULTS).stat().mtime
    if written is None or not 0 < written < 2**32:
        return ""
    return datetime.datetime.fromtimestamp(written, datetime.UTC).date().isoformat()


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    """Return a number of at least 0 that is not damage."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= LARGEST else None


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and _number(value) is not None else None


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number <= 1 else None
