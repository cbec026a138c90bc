"""The smallest slices that hold each recipe, by the compilers of TPU v5e, TPU v4 and H100.

  pip install 'vit_jax[plan-tpu,plan-gpu]'
  python benchmarks/plan_recipes.py --output=recipes.jsonl [--only=deit]    # hours; it resumes
  python benchmarks/plan_recipes.py --output=recipes.jsonl --write          # docs/recipes.md

The whole training step is compiled for the slice in the table, and for the next smaller one, unless
that would need more than 1.6 times its memory: the state, and the rest in proportion to the images
of a device. (XLA can save a third by computing activations again.) Recipes that differ only in
numbers that no step depends on share their compiles, as do those that differ in classes: the one
with the most is compiled.
"""

import json
import pathlib
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from absl import flags
from etils import epath
from recipe_steps import NUM_IMAGES, ROOT, find_steps, make_teacher, open_recipe

from vit_jax import config as config_lib
from vit_jax.cluster.device_specs import SPECS
from vit_jax.config import stored
from vit_jax.console import cli
from vit_jax.console.progress import complain, say
from vit_jax.errors import InputMissingError, UserError
from vit_jax.planning import topologies
from vit_jax.planning.compiling import compile_step

PAGE = ROOT / "docs" / "recipes.md"
MARK = "Smallest slices and their peaks in GiB (docs/recipes.md):"
BEGIN = "<!-- plan_recipes.py begins -->"
END = "<!-- plan_recipes.py ends -->"

# The slices of each device, from the smallest on.
LADDERS = {
    "h100": ("1", "2", "4", "8", "2x8", "4x8"),
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
}
TITLES = {"h100": "H100", "v5e": "TPU v5e", "v4": "TPU v4"}
SURELY = 1.6  # times the memory of a device: more needs no compile to be known as too much


class Row(NamedTuple):
    """A step that was compiled for a slice; bytes are those of a device."""

    recipe: str
    topology: str
    peak_bytes: int
    state_bytes: int
    limit_bytes: int
    fits: bool

    @property
    def num_chips(self) -> int:
        """The number of chips of the slice."""
        return topologies.num_chips(topologies.parse(self.topology))

    @property
    def peak(self) -> float:
        """The peak in GiB."""
        return self.peak_bytes / 2**30

    @property
    def cell(self) -> str:
        """The peak as the table shows it."""
        return f"{self.peak:.1f}" if self.peak >= 0.1 else f"{self.peak:.1g}"

    def predict(self, num_chips: int) -> float:
        """Return the peak with another number of chips, which divide the same batch."""
        rest = self.peak_bytes - self.state_bytes
        return self.state_bytes + rest * self.num_chips / num_chips


# The recipes of each step, and the smallest slice of each device, by the recipe that is compiled.
Table = dict[str, tuple[list[str], dict[str, Row | None]]]


def find_smallest(slices: Sequence[str], guess: int, measure: Callable[[str], Row]) -> Row | None:
    """Return the smallest slice that holds a step; None if none does.

    Args:
      slices: Topologies from the smallest on.
      guess: The index of the slice to try first.
      measure: Compiles the step for a topology.
    """
    chips = [topologies.num_chips(topologies.parse(topology)) for topology in slices]
    low, high, found = -1, len(slices), None
    index = min(max(guess, 0), len(slices) - 1)
    while high - low > 1:
        row = measure(slices[index])
        if row.fits:
            high, found = index, row
            too_much = [i for i in range(high) if row.predict(chips[i]) > SURELY * row.limit_bytes]
            low = max([low, *too_much])
        else:
            low = index
        between = range(low + 1, high)
        fitting = [i for i in between if row.predict(chips[i]) <= row.limit_bytes]
        index = min(fitting, default=high - 1)
    return found


def plan(recipe: str, config: config_lib.Config, rows: "Rows") -> dict[str, Row | None]:
    """Return the smallest slice of each device that holds a recipe."""
    smallest: dict[str, Row | None] = {}
    guessed: Row | None = None
    for device, shapes in LADDERS.items():
        names = [f"{device}:{shape}" for shape in shapes]
        chips = [topologies.num_chips(topologies.parse(name)) for name in names]
        slices = [n for n, c in zip(names, chips, strict=True) if config.batch_size % c == 0]
        usable = SPECS[device].usable
        fitting = [guessed and guessed.predict(c) <= usable for c in chips[: len(slices)]]
        guess = fitting.index(True) if True in fitting else len(slices) - 1 if guessed else 0
        row = find_smallest(slices, guess, lambda name: rows.measure(recipe, config, name))
        smallest[device] = row
        guessed = row or guessed
    return smallest


class Rows:
    """The compiled steps in a file of JSON lines; each is compiled once.

    Args:
      path: The file.
      compiles: Whether to compile what is not in the file.
    """

    def __init__(self, path: pathlib.Path, compiles: bool = True) -> None:
        self._path = path
        self._compiles = compiles
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows = [Row(**json.loads(line)) for line in lines]

    def measure(self, recipe: str, config: config_lib.Config, topology: str) -> Row:
        """Return the row of a recipe and a topology; compile the step if the file has none.

        Raises:
          InputMissingError: The file has none, and nothing is compiled.
        """
        for row in self._rows:
            if (row.recipe, row.topology) == (recipe, topology):
                return row
        if not self._compiles:
            raise InputMissingError(f"{self._path}: no row for {recipe} and {topology}")
        report = compile_step(config, topology, num_images=NUM_IMAGES if config.data.root else 0)
        row = Row(
            recipe,
            topology,
            report.peak_bytes,
            report.state_bytes,
            report.limit_bytes or 0,
            report.fits,
        )
        self._rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row._asdict()) + "\n")
        verdict = "fits" if row.fits else "too large"
        say(f"{recipe:<28} {topology:<10} {row.peak:8.2f} GiB  {verdict}")
        return row


def to_table(table: Table) -> str:
    """Return the table of docs/recipes.md: the smallest slices of each recipe, and their peaks."""
    limits = {
        device: row.limit_bytes / 2**30
        for _, smallest in table.values()
        for device, row in smallest.items()
        if row
    }
    heads = [f"{TITLES[device]}: {limit:.2f} GiB" for device, limit in limits.items()]
    lines = [["recipe", *heads]]
    for names, smallest in table.values():
        cells = [f"`{row.topology}` {row.cell}" if row else "none" for row in smallest.values()]
        lines.append([_abbreviate(names), *cells])
    head, *rest = (f"| {' | '.join(line)} |\n" for line in lines)
    return head + "|---" * len(lines[0]) + "|\n" + "".join(rest)


def to_paragraph(file: str, table: Table) -> str:
    """Return the paragraph of a recipe's docstring that says the same as the table."""
    parts = []
    for names, smallest in table.values():
        own = [name.partition(":")[2] for name in names if name.startswith(f"{file}")]
        if own:
            cells = [f"{r.topology} ({r.cell})" for r in smallest.values() if r]
            parts.append((", ".join(own), ", ".join(cells)))
    texts = [f"{own}: {cells}" if own and len(parts) > 1 else cells for own, cells in parts]
    text = f"{MARK} {'; '.join(texts)}."
    return textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False)


def write(table: Table) -> None:
    """Write the table to docs/recipes.md, and its rows to the docstrings of the recipes."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{to_table(table)}\n{END}{rest.partition(END)[2]}")
    for file in {name.partition(":")[0] for names, _ in table.values() for name in names}:
        path = ROOT / "configs" / file
        _, doc, code = path.read_text().split('"""', 2)
        kept = [text for text in doc.strip().split("\n\n") if not text.startswith(MARK)]
        doc = "\n\n".join([*kept, to_paragraph(file, table)])
        path.write_text(f'"""{doc}\n"""{code}')


def _abbreviate(names: Sequence[str]) -> str:
    """Return recipes as `a.py:x`, `:y`, `b.py:z`."""
    texts, last = [], ""
    for name in names:
        file, colon, argument = name.partition(":")
        texts.append(f"`{colon}{argument}`" if file == last else f"`{name}`")
        last = file
    return ", ".join(texts)


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Compile what is not in the file yet; or write the table of the recipes that are complete."""
    rows = Rows(pathlib.Path(values.output), compiles=not values.write)
    table: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        stored.write(epath.Path(folder), make_teacher(), {})
        for recipe, names in find_steps(folder).items():
            if values.only and recipe.partition(".")[0] not in values.only:
                continue
            try:
                table[recipe] = names, plan(recipe, open_recipe(recipe, folder), rows)
            except UserError as error:
                complain(f"{recipe}: {error}")
    if values.write:
        write(table)


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    text = "File of JSON lines with the compiled steps."
    flags.DEFINE_string("output", "recipes.jsonl", text, flag_values=values)
    flags.DEFINE_list("only", [], "Files of recipes: deit,swin.", flag_values=values)
    text = "Write the table in docs/recipes.md and in the recipes; compile nothing."
    flags.DEFINE_bool("write", False, text, flag_values=values)
    return values


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the processes that compile take the devices
    sys.exit(cli.run(main, _flags(), __doc__))
