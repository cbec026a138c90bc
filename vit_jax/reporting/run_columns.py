"""The columns of a table of runs: what each shows of a run, and by what it sorts."""

from collections.abc import Callable
from typing import NamedTuple

from vit_jax.reporting.numbers import (
    NONE,
    Format,
    Number,
    count,
    decimal,
    interval,
    percent,
    seconds,
)
from vit_jax.reporting.ranking import Entry


class Cell(NamedTuple):
    """The cell of a run in a column."""

    text: str
    details: str = ""  # further text, such as an interval
    key: Number | str | None = None  # by which rows are sorted; None is last in any order


class Column(NamedTuple):
    """A column."""

    title: str
    cell: Callable[[Entry], Cell]
    is_text: bool = False


def _text(title: str, read: Callable[[Entry], str]) -> Column:
    """Return a column of text."""
    return Column(title, lambda entry: Cell(read(entry), key=read(entry) or None), is_text=True)


def _number(title: str, read: Callable[[Entry], Number | None], form: Format) -> Column:
    """Return a column of numbers."""
    return Column(title, lambda entry: Cell(form(read(entry)), key=read(entry)))


def _accuracy(label: str) -> Column:
    """Return the column of the top-1 accuracy on a set."""

    def cell(entry: Entry) -> Cell:
        score = entry.run.scores.get(label)
        if score is None:
            return Cell(NONE)
        return Cell(percent(score.top1), interval(score.low, score.high, percent), score.top1)

    return Column(f"{label} top-1", cell)


def _step(entry: Entry) -> Cell:
    """Return the step, and the length of the training if it is not the same number."""
    step, length = entry.run.step, entry.run.length
    same = step is not None and length == f"{step:,} steps"
    return Cell(count(step), "" if same or not length else f"of {length}", step)


COLUMNS = (
    _text("run", lambda entry: entry.run.name),
    _accuracy("test"),
    _accuracy("val"),
    _text("standing", lambda entry: entry.standing),
    _text("data", lambda entry: entry.run.data),
    _number("loss", lambda entry: entry.score.loss if entry.score else None, decimal),
    _text("model", lambda entry: entry.run.model),
    _number("parameters", lambda entry: entry.run.parameters, count),
    _text("image size", lambda entry: entry.run.image_size),
    Column("step", _step),
    _number("training", lambda entry: entry.run.seconds, seconds),
    _number("goodput", lambda entry: entry.run.goodput, percent),
    _text("date", lambda entry: entry.run.date),
    _text("remark", lambda entry: entry.run.problem),
)
