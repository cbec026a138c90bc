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
import re
import runpy
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.cluster.device_specs import SPECS
from vit_jax.config import stored
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.planning import topologies
from vit_jax.planning.compiling import compile_step
from vit_jax.planning.declared import declare

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
MARK = "Smallest slices and their peaks in GiB (docs/recipes.md):"
BEGIN = "<!-- plan_recipes.py begins -->"
END = "<!-- plan_recipes.py ends -->"

# The slices of each device, from the smallest on.
LADDERS = {
    "h100": ("1", "2", "4", "8"),
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
}
TITLES = {"h100": "H100", "v5e": "TPU v5e", "v4": "TPU v4"}
SURELY = 1.6  # times the memory of a device: more needs no compile to be known as too much

# In the order of the table.
FILES = (
    "deit.py",
    "deit3.py",
    "augreg.py",
    "plain_vit.py",
    "swin.py",
    "augreg_finetune.py",
    "hybrid.py",
    "vit_finetune.py",
    "transfer.py",
    "cifar10.py",
    "fashion_mnist.py",
    "digits.py",
    "finetune_folder.py",
    "folder.py",
    "synthetic.py",
)
# What a recipe needs besides its name: a model, a teacher, the classes and images of a folder.
FOLDER = {"model.num_classes": "100", "data.root": "PHOTOS"}
NEEDS = {
    "digits.py:transfer": {"model.name": "vit_mu4", "data.image_size": "28,28"},
    "finetune_folder.py": {"model.name": "vit_b16", "data.image_size": "224,224", **FOLDER},
    "folder.py": FOLDER,
}
NUM_IMAGES = 10_000  # of a folder
# Settings that change no shape: numbers in a program, and what the host does.
NUMBERS = re.compile(
    r"total_.*|seed|max_skipped|init_from|(eval|checkpoint|log)\..*|model\.(name|num_classes)"
    r"|data\.(\w+_split|name|root|crop.*|fit|interpolation|flip|augment|color_jitter|repeats)"
    r"|data\.(affine\..*|threads|mean|std)"
    r"|optim\.(learning_rate|schedule|warmup_.*|end_learning_rate|cooldown_.*)"
)
# Settings of which only matters whether they are 0.
SWITCHES = re.compile(
    r"model\.block\.drop_path|mix\..*|optim\.(weight_decay|clip_norm|ema_decay)|data\.erasing"
    r"|objective\.label_smoothing"
)


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

    def predict(self, num_chips: int) -> float:
        """Return the peak with another number of chips, which divide the same batch."""
        rest = self.peak_bytes - self.state_bytes
        return self.state_bytes + rest * self.num_chips / num_chips


# The recipes of each step, and the smallest slice of each device, by the recipe that is compiled.
Table = dict[str, tuple[list[str], dict[str, Row | None]]]


def find_recipes() -> Iterator[str]:
    """Yield FILE.py or FILE.py:ARGUMENT of every recipe."""
    for name in FILES:
        path = ROOT / "configs" / name
        tables = re.findall(r"pick\((\w+), ", path.read_text())
        scope = runpy.run_path(str(path)) if tables else {}
        yield from [f"{name}:{key}" for table in tables for key in scope[table]] or [name]


def flags_of(recipe: str) -> dict[str, str]:
    """Return the flags without which a recipe has no model, no teacher or no classes."""
    return NEEDS.get(recipe, NEEDS.get(recipe.partition(":")[0], {}))


def open_recipe(recipe: str, teacher: str) -> config_lib.Config:
    """Return the config of a recipe.

    Args:
      recipe: The recipe.
      teacher: The run folder of a teacher with the classes of ImageNet, for distillation.
    """
    tree = config_lib.load_config_file(f"{ROOT}/configs/{recipe}")
    flags = flags_of(recipe)
    if tree.objective.name == "distillation":
        flags = {**flags, "objective.teacher": teacher}
    return config_lib.resolve(tree, flags).config


def step_of(config: config_lib.Config) -> str:
    """Return a text that is equal for configs whose steps have the same shapes, but for classes."""
    values = config_lib.flatten(config_lib.as_dict(config))
    kept = {key: value for key, value in values.items() if not NUMBERS.fullmatch(key)}
    return str({k: bool(v) if SWITCHES.fullmatch(k) else v for k, v in kept.items()})


def find_steps(teacher: str) -> dict[str, list[str]]:
    """Return the recipes of each step, by the one that has the most classes."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for recipe in find_recipes():
        config = open_recipe(recipe, teacher)
        train = declare(config, NUM_IMAGES if config.data.root else 0).sources["train"]
        groups.setdefault(step_of(config), []).append((len(train.class_names), recipe))
    return {max(g, key=lambda item: item[0])[1]: [name for _, name in g] for g in groups.values()}


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


def make_teacher() -> config_lib.Config:
    """Return the config of the teacher of distilled recipes: DeiT-B, as in the recipe."""
    tree = config_lib.load_config_file(f"{ROOT}/configs/deit.py:b")
    return config_lib.resolve(tree, {"model.num_classes": "1000"}).config


class Rows:
    """The compiled steps in a file of JSON lines; each is compiled once.

    Args:
      path: The file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows = [Row(**json.loads(line)) for line in lines]

    def measure(self, recipe: str, config: config_lib.Config, topology: str) -> Row:
        """Return the row of a recipe and a topology; compile the step if the file has none."""
        for row in self._rows:
            if (row.recipe, row.topology) == (recipe, topology):
                return row
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
    heads = [f"{TITLES[device]}: {limit:.1f} GiB" for device, limit in limits.items()]
    lines = [["recipe", *heads], ["---"] * (len(heads) + 1)]
    for names, smallest in table.values():
        cells = [f"`{row.topology}` {row.peak:.1f}" if row else "none" for row in smallest.values()]
        lines.append([_abbreviate(names), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_paragraph(file: str, table: Table) -> str:
    """Return the paragraph of a recipe's docstring that says the same as the table."""
    parts = []
    for names, smallest in table.values():
        own = [name.partition(":")[2] for name in names if name.startswith(f"{file}")]
        if own:
            cells = [f"{r.topology} ({r.peak:.1f})" for r in smallest.values() if r]
            parts.append((", ".join(own), ", ".join(cells)))
    texts = [f"{own}: {cells}" if own and len(parts) > 1 else cells for own, cells in parts]
    text = f"{MARK} {'; '.join(texts)}."
    return textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False)


def write(table: Table) -> None:
    """Write the table to docs/recipes.md, and its rows to the docstrings of the recipes."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{to_table(table)}{END}{rest.partition(END)[2]}")
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
    """Compile what is not in the file yet, then write the table if asked to."""
    rows = Rows(pathlib.Path(values.output))
    table: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        stored.write(epath.Path(folder), make_teacher(), {})
        for recipe, names in find_steps(folder).items():
            if not values.only or recipe.partition(".")[0] in values.only:
                table[recipe] = names, plan(recipe, open_recipe(recipe, folder), rows)
    if values.write:
        write(table)


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    text = "File of JSON lines with the compiled steps."
    flags.DEFINE_string("output", "recipes.jsonl", text, flag_values=values)
    flags.DEFINE_list("only", [], "Files of recipes: deit,swin.", flag_values=values)
    flags.DEFINE_bool("write", False, "Write the table in docs/recipes.md.", flag_values=values)
    return values


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the processes that compile take the devices
    sys.exit(cli.run(main, _flags(), __doc__))
