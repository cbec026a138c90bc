"""Compare runs: accuracies with their intervals, cost, and which run is the best.

  python -m vit_jax.compare RUNS... [--output=FILE.html] [--json]

RUNS are run folders, directories of them, or patterns such as 'runs/*/lr*'. Only their JSON files
are read. A run that is broken or unfinished has a line that says why.
"""

import glob
import itertools
import os
import sys
from collections.abc import Iterable, Sequence

from absl import flags
from etils import epath
from rich.cells import cell_len

from vit_jax.console import cli
from vit_jax.console.progress import say, say_aside
from vit_jax.console.text import printable, to_json
from vit_jax.console.workdir import is_local, open_path, write_text
from vit_jax.errors import ConfigError, InputMissingError, WorkdirError
from vit_jax.reporting.leaderboard import conclude, leaderboard
from vit_jax.reporting.ranking import Entry, Ranking, rank
from vit_jax.reporting.run_columns import COLUMNS, Cell
from vit_jax.reporting.runs import find_runs, is_run, read_run


def main(values: flags.FlagValues, operands: list[str]) -> None:
    """Print the rankings of runs; write them to a page.

    Raises:
      ConfigError: There are no operands, or the output is not the path of an HTML file.
      InputMissingError: There are no runs.
      WorkdirError: The output cannot be written.
    """
    if not operands:
        raise ConfigError("RUNS", "expected run folders, or directories of runs")
    output = _output(values.output) if values.output else None
    folders = _find(operands)
    if not any(is_run(folder) for folder in folders):
        raise InputMissingError(f"{', '.join(operands)}: no runs there")
    names = _names(folders)
    rankings, others = rank([read_run(*pair) for pair in zip(folders, names, strict=True)])
    if values.json:
        _print_json(rankings, others)
    else:
        _print_tables(rankings, others)
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_text(output, leaderboard(rankings, others))
        except OSError as error:
            problem = f"cannot write {output} ({error.strerror or error}); choose another path"
            raise WorkdirError(f"--output: {problem}") from error
        say_aside(f"written   {output}")


def _output(text: str) -> epath.Path:
    """Return the path of the page."""
    path = open_path(text, "--output")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("--output", f"expected the path of an .html file, got {text}")
    if path.is_dir():
        raise ConfigError("--output", f"expected the path of a file, {text} is a directory")
    return path


def _find(operands: Sequence[str]) -> list[epath.Path]:
    """Return the folders of runs, each once; an operand without runs stands for itself."""
    matches = [path for operand in operands for path in _expand(operand)]
    found = [run for path in matches for run in [*find_runs(path)] or [path]]
    places = {os.path.realpath(path) if is_local(path) else str(path): path for path in found[::-1]}
    return list(places.values())[::-1]


def _expand(operand: str) -> list[epath.Path]:
    """Return the paths that match a pattern, or the path itself."""
    path = open_path(operand, "RUNS")
    matches = [] if path.exists() or not is_local(path) else sorted(glob.glob(str(path)))
    return [epath.Path(match) for match in matches] or [path]


def _names(folders: Sequence[epath.Path]) -> list[str]:
    """Return the paths of runs, from the folder that has all of them."""
    paths = [str(path.absolute() if is_local(path) else path) for path in folders]
    parents = [path.split("/")[:-1] for path in paths]
    shared = [*itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))]
    return ["/".join(path.split("/")[len(shared) :]) for path in paths]


def _print_tables(rankings: Sequence[Ranking], others: Sequence[Entry]) -> None:
    """Print a table for each set of images, and one of the runs without a score."""
    for ranking in rankings:
        say(ranking.title)
        for line in _table(ranking.entries):
            say(f"  {line}")
        say(f"  {conclude(ranking)}")
    if others:
        say("without a top-1 accuracy")
        for entry in others:
            say(f"  {entry.run.name}: {entry.run.problem}")


def _table(entries: Iterable[Entry]) -> list[str]:
    """Return the lines of a table: text to the left, numbers to the right."""
    rows = [[column.title for column in COLUMNS]]
    rows += [[_text(column.cell(entry)) for column in COLUMNS] for entry in entries]
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        padded = []
        for cell, width, column in zip(cells, widths, COLUMNS, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if column.is_text else space + cell)
        lines.append("  ".join(padded).rstrip())
    return lines


def _text(cell: Cell) -> str:
    text = f"{cell.text} ({cell.details})" if cell.details else cell.text
    return printable(text, None)


def _print_json(rankings: Sequence[Ranking], others: Sequence[Entry]) -> None:
    """Print one JSON object per run, in the order of the tables."""
    titled = [(ranking.title, entry) for ranking in rankings for entry in ranking.entries]
    for title, entry in [*titled, *(("", entry) for entry in others)]:
        run = entry.run._asdict()
        run["scores"] = {label: score._asdict() for label, score in entry.run.scores.items()}
        say(to_json({**run, "ranked_on": title, "standing": entry.standing}))


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    values.set_gnu_getopt(True)  # flags may follow the runs
    text = "A page to write: one HTML file, without anything from elsewhere."
    flags.DEFINE_string("output", "", text, flag_values=values)
    flags.DEFINE_bool("json", False, "Print one JSON object per run.", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=cli.parse_operands))
