"""The arrows of import hold, and the core needs neither TensorFlow nor torch."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "vit_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import, of ours; `errors` is everybody's.
ALLOWED = {
    "models.layers": {"models.layers"},
    "models": {"models", "models.layers", "trained"},  # the last inside from_pretrained only
    "config": {"models", "fields"},
    "fields": set(),
    "data": {"data", "config", "logs"},
    "losses": set(),
    "metrics": set(),
    "interrupt": set(),
    "launchers": set(),
    "hosts": {"launchers", ""},
    "workdir": {"hosts"},
    "seals": {"workdir"},
    "logs": {"workdir"},
    "downloads": {"logs"},
    "sharding": {"config"},
    "optim": {"config"},
    "schedules": {"config"},
    "step": {"distill", "losses", "models", "optim", "run", "sharding", "state"},
    "cli": {"config", "hosts"},
    "state": {"config", "optim", "sharding"},
    "report": {"config", "data", "logs", "state"},
    "checkpoint": {"config", "hosts", "logs", "seals", "state"},
    "trained": {"checkpoint", "config", "data", "models", "sharding", "state", "workdir"},
    "weights": {"weights"},
    "viz": {"data", "logs", "workdir"},
    "distill": {"config", "models", "trained", "workdir"},
    "finetune": {
        *("config", "models", "models.layers", "run", "trained", "weights", "workdir"),
    },
    "run": {
        *("config", "data", "distill", "losses", "models", "optim", "schedules", "sharding"),
        *("state", ""),
    },
}


# These put the parts together.
COMMANDS = {
    *("train", "evaluate", "predict", "prepare", "convert", "models.__main__", "data.preview"),
}


def part_of(module):
    """Returns the part that a module belongs to, such as `models.layers`."""
    names = module.removeprefix("vit_jax").strip(".").split(".")
    if names[-1] == "__main__" or names == ["data", "preview"]:
        return ".".join(names)
    return "models.layers" if names[:2] == ["models", "layers"] else names[0]


def imported_parts(path):
    """Returns the parts of ours that a file imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vit_jax"):
            if node.module == "vit_jax":
                parts |= {"" if alias.name.startswith("__") else alias.name for alias in node.names}
            elif node.module == "vit_jax.models" and path.parent.name == "models":
                parts.add("models")
            else:
                parts.add(part_of(node.module))
    return parts - {"errors"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    part = part_of(module)
    imported = imported_parts(path)
    assert "train" not in imported
    if part in ALLOWED:
        assert imported <= ALLOWED[part]


def test_every_part_is_in_the_table():
    parts = {part_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in FILES}
    assert parts - {"__init__", "errors", *COMMANDS} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_answer_one_question(path):
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}
    assert path.parent.name == "digits" or len(path.read_text().splitlines()) <= 370


def test_nothing_pulls_tensorflow_or_torch():
    modules = ", ".join(f"vit_jax.{name}" for name in [*COMMANDS, "data.digits"])
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
