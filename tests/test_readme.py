"""The README is short, links lead somewhere, the layout shows all files, and examples run."""

import re
import subprocess

import pytest
from conftest import ROOT, resolved
from etils import epath

from vit_jax import config
from vit_jax.evaluation.evaluators import EVALUATORS
from vit_jax.models.families import FAMILIES
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.training.loop import train
from vit_jax.training.objectives import OBJECTIVES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = sorted({*PAGES, *ROOT.glob("*.md")})
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


def test_the_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 200


def anchors(page):
    """Returns the anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    words = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_can_be_reached_from_the_readme_and_from_the_start_page():
    for start, folder in ((ROOT / "README.md", "docs/"), (ROOT / "docs" / "index.md", "")):
        text = start.read_text()
        for page in PAGES[1:]:
            if page.name != "index.md":
                assert f"({folder}{page.name})" in text, f"{start.name}: {page.name}"


def example(word):
    """Returns the Python of the only example of the pages that has a word in it."""
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
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
    scope = {}
    exec(example("get_config"), scope)  # noqa: S102
    assert config.resolve(scope["get_config"]()).config.total_epochs == 20.0


def test_the_examples_of_ones_own_run(tiny_config, tmp_path):
    """The page on extending adds a part, an objective and a family, which train together."""
    tables = (ATTENTIONS, EVALUATORS, FAMILIES, OBJECTIVES, config.OBJECTIVES)
    before = [dict(table) for table in tables]
    page = (ROOT / "docs" / "extending.md").read_text()
    try:
        for code in re.findall(r"```python\n(.*?)```", page, flags=re.S):
            exec(compile(code, "extending.md", "exec"), {"__name__": "own"})  # noqa: S102
        own = {
            "model.name": "tower_s8",
            "model.stem.patch": "4,4",
            "model.num_classes": "0",
            "model.depth": "1",
            "model.attention": "sharp",
            "model.attention.sharpness": "3",
            "objective": "reconstruction",
            "optim.name": "muon",
            "optim.layer_decay": "0.5",
            "total_steps": "2",
        }
        results = train(resolved(tiny_config(own)), epath.Path(tmp_path))
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
    assert set(results["eval"]["test"]) == {"mse", "count", "skipped"}
