"""The README and the layout are true: the tree is the repository's, and their Python runs."""

import re
import subprocess

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
LAYOUT = (ROOT / "docs" / "layout.md").read_text()


def tree():
    """Returns the paths that the tree of docs/layout.md names."""
    block = LAYOUT.split("## Files")[1].split("```")[1]
    folders, paths = [], set()
    for line in block.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name]
        paths.add("".join(folders))
    return paths


def test_the_tree_names_every_file_and_no_other():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.fail("the tests run in a git checkout")
    tracked = [path for path in listed.stdout.split() if path.startswith(("vit_jax/", "configs/"))]
    named = tree()
    whole = tuple(path for path in named if path.endswith(("digits/", "tests/")))
    files = {p for p in tracked if p.endswith(".py") and not p.endswith("__init__.py")}
    assert {p for p in files if not p.startswith(whole)} == {p for p in named if p.endswith(".py")}
    for path in named:
        assert (ROOT / path).exists(), path


def example(word):
    """Returns the Python of the README's example that has a word in it."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    (found,) = [block for block in blocks if word in block]
    return found


def test_the_model_example_runs():
    code = example("models.create").replace(
        '"vit_s16", ', '"vit_s16", width=16, num_heads=2, mlp_dim=16, '
    )
    scope = {}
    exec(code, scope)  # noqa: S102
    assert scope["output"].logits.shape == (1, 10)


def test_the_recipe_example_resolves():
    from vit_jax import config

    scope = {}
    exec(example("get_config"), scope)  # noqa: S102
    assert config.resolve(scope["get_config"]()).config.total_epochs == 20.0
