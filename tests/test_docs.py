"""The shell commands and the Python of the README and of docs/ run, from top to bottom."""

import functools
import importlib
import os
import re
import shlex
import shutil
import sys
import tomllib
from typing import NamedTuple

import jax
import jaxtyping
import numpy as np
import pytest
from conftest import ROOT
from golden_cases import FIXTURES, Case
from PIL import Image

from vit_jax import config, convert
from vit_jax.cluster import sharding
from vit_jax.console import cli
from vit_jax.evaluation.evaluators import EVALUATORS
from vit_jax.models.families import FAMILIES
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.training.objectives import OBJECTIVES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("sh", "bash", "shell", "console")
TABLES = (ATTENTIONS, EVALUATORS, FAMILIES, OBJECTIVES, config.OBJECTIVES)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What the weights of the pages are here: small ones of the same libraries.
WEIGHTS = {
    "vit_base.safetensors": "timm_vit_eps",
    "vit_folder": "hf_vit_eps",
    "dinov2-small": "hf_dinov2_cls",
}
DINOV2 = [
    "--source=huggingface",
    "--input=dinov2-small",
    "--model=dinov2_s14",
    "--output=weights/dinov2_s14",
]
# Python that other tests run: of a page, how many blocks.
ELSEWHERE = {"extending.md": 3, "models.md": 1, "recipes.md": 1}

PARSERS = {
    "attend": cli.parse_operands,
    "compare": cli.parse_operands,
    "convert": convert.parse_overrides,
    "embed": cli.parse_operands_and_overrides,
    "models": cli.parse_operands,
    "predict": cli.parse_operands,
}
# In front of the flags of a page, which win.
SMALL = {
    "batch_size": "32",
    "data.threads": "1",
    "eval.batch_size": "32",
    "eval.every_steps": "0",
    "log.tensorboard": "false",
    "optim.warmup_steps": "1",
}
SMALL_MODEL = {
    "model.depth": "1",
    "model.mlp_dim": "16",
    "model.num_heads": "2",
    "model.width": "16",
}


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, its line, and why it is not run."""

    language: str
    text: str
    line: int
    reason: str


def blocks(page):
    """Returns the fenced blocks of a page."""
    found = []
    lines = page.read_text().splitlines()
    start = None
    for i, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = i
            continue
        above = lines[start - 1] if start else ""
        marked = re.fullmatch(r"<!-- not run: (.+) -->", above)
        text = "\n".join(lines[start + 1 : i])
        found.append(Block(lines[start][3:], text, start + 1, marked[1] if marked else ""))
        start = None
    assert start is None, f"{page.name}: a block has no end"
    return found


def commands(block):
    """Returns the words of each command of a shell block."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found = [[]]
    for line in lines:
        for word in shlex.split(line, comments=True):
            assert word not in ("|", ">", ";", "&"), f"line {block.line}: {word} is not run here"
            if word == "&&":
                found.append([])
            else:
                found[-1].append(word)
        found.append([])
    return [words for words in found if words]


def test_few_shell_blocks_are_not_run():
    shells = [block for page in PAGES for block in blocks(page) if block.language in SHELLS]
    assert sum(bool(block.reason) for block in shells) <= len(shells) / 10


def test_all_python_of_the_pages_is_run():
    for page in PAGES:
        python = [block for block in blocks(page) if block.language == "python"]
        if page.name in ELSEWHERE:
            assert len(python) == ELSEWHERE[page.name], page
        assert not any(block.reason for block in python)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A clone with small files of the names that the pages use, and a run on the digits."""
    root = tmp_path_factory.mktemp("pages")
    for name in ("configs", "tests", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    photos = [f"PHOTOS/{name}/{i}.jpg" for name in ("cat", "dog") for i in range(30)]
    for name in [*photos, "new.jpg", "cat.jpg", "a.jpg", "b.png", "more/1.jpg", "more/2.png"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(root / name)
    for name, case in WEIGHTS.items():
        given = Case(FIXTURES / f"{case}.json").weights
        (shutil.copytree if given.is_dir() else shutil.copy)(given, root / name)
    extending = blocks(ROOT / "docs" / "extending.md")
    own = [block.text for block in extending if block.language == "python"]
    (root / "mine.py").write_text("\n\n".join(own))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        # As for a user: other tests check types while models are traced, and share eight devices;
        # both take long.
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        patch.setattr(sharding, "make_mesh", functools.partial(make_mesh, sharding.make_mesh))
        run_command(["python", "-m", "vit_jax.train", "--config=configs/digits.py"], patch)
        run_command(["python", "-m", "vit_jax.convert", *DINOV2], patch)
        yield root


def make_mesh(make, sizes=(-1, 1, 1), devices=None):
    """Returns a mesh of one device, unless a page asks for more."""
    devices = jax.devices() if max(sizes) > 1 else jax.devices()[:1]
    return make(sizes, devices)


@pytest.fixture(scope="module")
def ran():
    """The texts of the blocks that were run."""
    return set()


@pytest.fixture
def tables():
    """Removes what a page adds to the tables of parts."""
    before = [dict(table) for table in TABLES]
    yield
    sys.modules.pop("mine", None)
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page, place, ran, tmp_path, monkeypatch, capsys):
    found = [block for block in blocks(page) if block.language in (*SHELLS, "python")]
    if not found:
        return
    shutil.copytree(place, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.syspath_prepend(tmp_path / "clone")
    scope = {}
    for block in found:
        if block.text in ran:  # on another page
            continue
        ran.add(block.text)
        where = f"{page.name}:{block.line}"
        if block.language == "python" and page.name not in ELSEWHERE:
            exec(compile(block.text, where, "exec"), scope)  # noqa: S102
        elif block.language in SHELLS and not block.reason:
            for words in commands(block):
                run_command(words, monkeypatch, f"{where}: {shlex.join(words)}")
    capsys.readouterr()


def run_command(words, patch, where=""):
    """Runs one command of a page in the current directory, with a small model and few steps."""
    words = list(words)
    if words[0] == "export":
        del words[0]
    while words and re.match(r"[A-Z_]+=", words[0]):
        patch.setenv(*words.pop(0).split("=", 1))
    if not words or words in (["python3", "-m", "venv", ".venv"], [".", ".venv/bin/activate"]):
        return
    if words[:2] == ["pip", "install"]:
        check_pip(words[2:])
        return
    if words[:2] == ["hf", "download"]:  # there is no network; what it brings is there
        assert os.path.exists(words[-1]), where
        return
    assert words[:2] == ["python", "-m"], f"{where}: no such command here"
    if words[2] == "pytest":
        check_pytest(words[3:])
        return
    name = words[2].removeprefix("vit_jax.")
    module = importlib.import_module("vit_jax.models.__main__" if name == "models" else words[2])
    flags = words[3:]
    if name == "train":  # as it is on the page; then small, unless it starts nothing
        run_main(module, name, [*flags, "--print_config"], where)
    if "--print_config" not in flags:
        run_main(module, name, small_flags(name, flags), where)


def run_main(module, name, flags, where):
    code = cli.run(module.main, module._flags(), "", [name, *flags], PARSERS.get(name))
    assert code == 0, where


def small_flags(command, flags):
    """Returns the flags of a command of a page, and others that make it small."""
    if command == "preview":
        return [*flags, "--images=1", "--draws=1", "--config.data.image_size=32,32"]
    if command == "plan":  # of this machine: the compilers of other devices are extras
        elsewhere = ("--topology=", "--config.mesh.")
        here = [flag for flag in flags if not flag.startswith(elsewhere)]
        small = {**SMALL, **SMALL_MODEL, "data.image_size": "32,32"}
        return [*here, *(f"--config.{key}={value}" for key, value in small.items())]
    given = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    if command == "convert":
        shutil.rmtree(given["--output"], ignore_errors=True)  # of a block before
        return [*flags, *(golden_flags(given["--input"]) if "--model" in given else [])]
    if command != "train":
        return flags
    small = dict(SMALL)
    if not any(flag.startswith("--config=configs/finetune") for flag in flags):
        small |= SMALL_MODEL
    if any(flag.startswith("--config=configs/folder") for flag in flags):
        small["data.image_size"] = "32,32"
    if "--config=configs/fashion_mnist.py" in flags:
        small["data.name"] = "synthetic"  # 1,024 images
    pairs = [f"--config.{key}={value}" for key, value in small.items()]
    steps = "3" if any("total_steps" in flag for flag in flags) else "2"  # another length, too
    small = {"--config.model.depth": "1", "--config.data.image_size": "28,28"}
    last = [f"{key}={value}" for key, value in small.items() if key in given]
    flags = [flag for flag in flags if not flag.startswith("--config.total_")]
    return ["--report=", *pairs, *flags, *last, f"--config.total_steps={steps}"]


def golden_flags(weights):
    """Returns the flags that say which model the weights of a page are here."""
    fields = dict(Case(FIXTURES / f"{WEIGHTS[weights]}.json").model)
    return [f"--model={fields.pop('name')}", *(f"--{key}={fields[key]}" for key in fields)]


def check_pip(words):
    """Checks that the extras of `pip install -e '.[extra]'` exist; nothing is installed here."""
    for word in words:
        if match := re.fullmatch(r"\.\[(.+)\]", word):
            extras = set(match[1].split(","))
            assert extras <= PYPROJECT["project"]["optional-dependencies"].keys(), word
        else:
            assert word in ("-e", ".") or re.fullmatch(r"\w+", word), word


def check_pytest(words):
    """Checks that the files of a test command exist; the tests are run already."""
    for word in words:
        assert word in ("-n", "2", "--dist", "worksteal") or os.path.exists(word), word


def test_the_printed_config_of_the_page_on_training_is_what_the_command_prints(
    place, monkeypatch, capsys
):
    found = blocks(ROOT / "docs" / "training.md")
    index = next(i for i, block in enumerate(found) if "--print_config" in block.text)
    monkeypatch.chdir(place)
    run_command(*commands(found[index]), monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    for line in found[index + 1].text.splitlines():
        assert line in printed
