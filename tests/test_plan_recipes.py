"""The table of slices that hold each recipe: how it is searched, and that it is true."""

import re
import sys

import pytest
from conftest import ROOT

from vit_jax.planning import topologies

sys.path.insert(0, str(ROOT / "benchmarks"))
import plan_recipes
import recipe_steps
from plan_recipes import LADDERS, Row, find_smallest

GIB = 2**30
SLICES = [f"v5e:{shape}" for shape in LADDERS["v5e"]]
PAGE = plan_recipes.PAGE.read_text()
CELL = re.compile(r"`((?:h100|v5e|v4):\w+)` (\d+\.\d+)")


def test_recipes_that_differ_in_numbers_only_share_a_step(monkeypatch, tmp_path):
    monkeypatch.setattr(recipe_steps, "FILES", ("deit3.py", "hybrid.py", "digits.py"))
    steps = recipe_steps.find_steps(str(tmp_path))
    assert {name: recipes for name, recipes in steps.items() if len(recipes) > 1} == {
        "deit3.py:b_800": ["deit3.py:b_800", "deit3.py:b_400"],
        "deit3.py:l_800": ["deit3.py:l_800", "deit3.py:l_400"],
        "hybrid.py:imagenet": ["hybrid.py:cifar10", "hybrid.py:cifar100", "hybrid.py:imagenet"],
    }
    assert steps["deit3.py:s_400"] == ["deit3.py:s_400"], "it has no stochastic depth"
    assert sum(map(len, steps.values())) == 13


def slices_of(memory):
    """Returns `measure` of a memory in GiB of the number of chips, and the slices it was given."""
    asked = []

    def measure(topology):
        asked.append(topology)
        peak = memory(topologies.num_chips(topologies.parse(topology)))
        return Row("deit.py:b", topology, int(peak * GIB), GIB, 16 * GIB, peak <= 16)

    return measure, asked


@pytest.mark.parametrize("guess", range(len(SLICES)))
@pytest.mark.parametrize("images", [1, 14, 20, 30, 100, 700, 3000])
def test_the_slice_is_compiled_and_the_next_smaller_one_is_too_small(guess, images):
    measure, asked = slices_of(lambda chips: 1 + images / chips)
    found = find_smallest(SLICES, guess, measure)
    asked = set(asked)
    assert found.fits and found.topology in asked
    index = SLICES.index(found.topology)
    below = SLICES[index - 1]
    assert not index or not measure(below).fits
    assert not index or below in asked or measure(below).peak > 1.5 * 16


def test_a_compiler_that_saves_a_third_is_asked():
    measure, asked = slices_of(lambda chips: 14 if chips < 16 else 1 + 150 / chips)
    assert find_smallest(SLICES, 3, measure).topology == "v5e:2x4"
    assert asked == ["v5e:4x4", "v5e:2x4"]


def test_no_slice_holds_a_state_that_is_too_large():
    measure, asked = slices_of(lambda chips: 17)
    assert find_smallest(SLICES, 0, measure) is None and asked[-1] == SLICES[-1]


def recipes_of(line):
    """Returns the recipes of a line of the table."""
    file, names = "", []
    for name in re.findall(r"`([\w.]+\.py(?::\w+)?|:\w+)`", line.split("|")[1]):
        file = name.partition(":")[0] or file
        names.append(name if name.startswith(file) else f"{file}{name}")
    return names


TABLE = re.findall(r"^\| `.*`.* \|$", PAGE.partition(plan_recipes.BEGIN)[2], flags=re.M)


@pytest.mark.parametrize("line", TABLE, ids=lambda line: recipes_of(line)[0])
def test_the_docstring_of_a_recipe_says_what_the_table_says(line):
    for file in {name.partition(":")[0] for name in recipes_of(line)}:
        text = " ".join((ROOT / "configs" / file).read_text().split('"""')[1].split())
        for topology, peak in CELL.findall(line):
            assert f"{topology} ({peak})" in text, file


def test_every_recipe_is_in_the_table():
    names = [name for line in TABLE for name in recipes_of(line)]
    assert sorted(names) == sorted(recipe_steps.find_recipes())


@pytest.mark.slow
@pytest.mark.parametrize("line", TABLE, ids=lambda line: recipes_of(line)[0])
def test_a_line_of_the_table_is_what_the_compilers_say(line, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # those of the tests change the program
    names = recipes_of(line)
    monkeypatch.setattr(recipe_steps, "FILES", tuple({n.partition(":")[0]: 0 for n in names}))
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    plan_recipes.stored.write(plan_recipes.epath.Path(teacher), recipe_steps.make_teacher(), {})
    recipe = next(
        recipe
        for recipe, members in recipe_steps.find_steps(str(teacher)).items()
        if names[0] in members
    )
    config = recipe_steps.open_recipe(recipe, str(teacher))
    rows = plan_recipes.Rows(tmp_path / "rows.jsonl")
    table = plan_recipes.to_table({recipe: (names, plan_recipes.plan(recipe, config, rows))})
    assert line in table.splitlines()


def test_the_files_are_those_of_configs():
    assert sorted(recipe_steps.FILES) == sorted(p.name for p in (ROOT / "configs").glob("*.py"))
