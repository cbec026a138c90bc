"""The page of a leaderboard: the accuracies of runs with their intervals, and a table to sort."""

from collections.abc import Iterable, Sequence

from vit_jax.reporting.charts.axes import figure
from vit_jax.reporting.charts.dots import Dot, dot_chart
from vit_jax.reporting.frame import frame
from vit_jax.reporting.markup import EMPTY, Markup, join, tag
from vit_jax.reporting.numbers import percent
from vit_jax.reporting.ranking import BEST, CLOSE, Entry, Ranking
from vit_jax.reporting.run_columns import COLUMNS, Cell, Column
from vit_jax.reporting.tables import scrolling

# The most runs that a chart shows.
MAX_DOTS = 30


def leaderboard(rankings: Sequence[Ranking], others: Sequence[Entry]) -> str:
    """Return the leaderboard as one HTML file.

    Args:
      rankings: The runs with a score, by the images that they were measured on.
      others: The runs without a score.
    """
    entries = [*(entry for ranking in rankings for entry in ranking.entries), *others]
    sections = {
        f"images-{i}": (ranking.title, _ranking(ranking)) for i, ranking in enumerate(rankings)
    }
    if others:
        sections["others"] = ("Runs without a top-1 accuracy", _reasons(others))
    sections["runs"] = ("All runs", _table(entries))
    sections["reading"] = ("How to read this", _explanation())
    number = f"{len(entries):,} run{'' if len(entries) == 1 else 's'}"
    unranked = f", {len(others):,} without a top-1 accuracy" if others else ""
    return frame("Leaderboard", number + unranked, sections)


def _ranking(ranking: Ranking) -> Markup:
    """Return what one set of images says about the runs."""
    shown = ranking.entries[:MAX_DOTS]
    dots = [
        Dot(e.run.name, e.score.top1, e.score.low, e.score.high, e.standing)
        for e in shown
        if e.score is not None
    ]
    note = "Dots: top-1 accuracy. Lines: 95 % intervals. Shaded: the interval of the best run."
    if len(shown) < len(ranking.entries):
        note += f" The best {len(shown)} of {len(ranking.entries):,} runs."
    chart = figure("Top-1 accuracy", dot_chart("Top-1 accuracy", dots, percent), caption=note)
    return join([tag("p", conclude(ranking)), chart])


def conclude(ranking: Ranking) -> str:
    """Return in a sentence or two which run is the best, and which could be."""
    best = [entry.run.name for entry in ranking.entries if entry.standing == BEST]
    close = sum(entry.standing == CLOSE for entry in ranking.entries)
    if not best:
        return f"{ranking.entries[0].run.name} is the only run on these images."
    named = f"{best[0]} has the highest top-1 accuracy"
    if len(best) > 1:
        named = f"{len(best)} runs share the highest top-1 accuracy"
    if len(best) == len(ranking.entries):
        return f"{named}."
    if not close:
        return f"{named}; the interval of no other run overlaps with that of the best."
    runs = "1 other run is" if close == 1 else f"{close} other runs are"
    return f"{named}; {runs} not distinguishable from the best."


def _reasons(others: Iterable[Entry]) -> Markup:
    """Return why runs have no score."""
    reasons = [(tag("strong", entry.run.name), f": {entry.run.problem}") for entry in others]
    return tag("ul", *(tag("li", *reason) for reason in reasons))


def _table(entries: Iterable[Entry]) -> Markup:
    head = [tag("th", c.title, scope="col", class_=_kind(c)) for c in COLUMNS]
    rows = [
        tag(
            "tr",
            *(_cell(column, column.cell(entry)) for column in COLUMNS),
            class_="best" if entry.standing == BEST else None,
        )
        for entry in entries
    ]
    content = tag(
        "table",
        tag("caption", "Runs, with 95 % intervals"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        class_="sortable",
    )
    note = tag("p", "Press the title of a column to sort by it.", class_="note")
    return join([note, scrolling(content, "Runs")])


def _cell(column: Column, cell: Cell) -> Markup:
    """Return a cell with the key that the script sorts by; the first column names the row."""
    details = [tag("br"), tag("span", cell.details, class_="unit")] if cell.details else [EMPTY]
    key = None if cell.key is None else str(cell.key)
    if column is COLUMNS[0]:
        return tag("th", cell.text, *details, scope="row", data_key=key)
    return tag("td", cell.text, *details, class_=_kind(column), data_key=key)


def _kind(column: Column) -> str | None:
    return None if column.is_text else "number"


def _explanation() -> Markup:
    points = (
        "Runs are ranked by top-1 accuracy on test, or on val where there is no test set, and only "
        "among runs with the same data set, split and number of images. A folder is known by its "
        "name.",
        "The intervals are Wilson's, with a confidence of 95 %. They cover which images happen to "
        "be in the set, not how training with another seed varies.",
        "Runs whose intervals overlap with that of the best are not distinguishable from it here. "
        "A paired test on the same images can tell more: evaluate --against.",
        "The best of many runs was also lucky: its accuracy on other images is likely lower.",
    )
    return tag("ul", *(tag("li", point) for point in points))
