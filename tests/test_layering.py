"""The map of docs/layout.md is the code's: rooms, arrows between them, files that are no longer."""

import ast
import functools
import graphlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "vit_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYOUT = (ROOT / "docs" / "layout.md").read_text()


def name_of(path):
    """Returns the module of a file, such as `data.loader`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}
# Commands put the parts together; nothing imports them.
DOORS = {name for name in MODULES if "." not in name and not (PACKAGE / name).is_dir()}
DOORS = (DOORS | {"models.__main__"}) - {"errors", "__init__"}


def room_of(module):
    return module if module in DOORS else module.split(".")[0]


@functools.cache
def imports_of(module):
    """Returns the modules of ours that a file imports, wherever in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vit_jax":
            base = node.module.removeprefix("vit_jax").strip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                found.add(full if full in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("vit_jax.") for a in node.names if "vit_jax." in a.name}
    return found - {module, ""}


def rooms_in_the_code():
    """Returns the rooms that each room imports."""
    rooms = {}
    for module in MODULES.keys() - {"__init__"}:
        others = {room_of(other) for other in imports_of(module)}
        rooms.setdefault(room_of(module), set()).update(others - {room_of(module)})
    return rooms


def rooms_on_the_map():
    """Returns the rooms that each room imports, as the table says."""
    rows = re.findall(r"^\| `([\w.]+)/?` \| .* \|(.*)\|$", LAYOUT, flags=re.M)
    return {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows}


def test_the_map_shows_every_arrow_between_rooms_and_no_other():
    code = rooms_in_the_code()
    assert {room: imports for room, imports in code.items() if room not in DOORS} == (
        rooms_on_the_map()
    )
    assert not set().union(*code.values()) & DOORS


def test_nothing_imports_in_a_circle():
    for graph in (rooms_in_the_code(), {module: imports_of(module) for module in MODULES}):
        try:
            list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError as error:
            pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_top_floor_holds_commands_and_errors():
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "errors"}
    assert top == DOORS - {"models.__main__"} and len(top) <= 14
    assert all("def main(" in MODULES[name].read_text() for name in DOORS)


def test_files_answer_one_question():
    for path in FILES:
        assert path.stem not in {"utils", "util", "common", "helpers", "misc"}, path
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno}"


def test_nothing_pulls_tensorflow_or_torch():
    modules = ", ".join(f"vit_jax.{name}" for name in [*sorted(DOORS), "data.digits"])
    # tensorboardX takes torch where it is installed; without it, all the same imports must do.
    code = (
        f"import sys; sys.modules['torch'] = None; import {modules}; "
        "print(sorted({'tensorflow', 'transformers', 'timm'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert out.stdout == "[]\n"


def test_no_pickle_on_any_path():
    for path in FILES:
        text = path.read_text()
        assert "pickle" not in text, path
        assert "np.load(" not in text, path
