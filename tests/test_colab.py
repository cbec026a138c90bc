"""The notebooks run top to bottom, on one device and on eight, and show their pictures."""

import ast
import base64
import importlib.util
import io
import os
import pathlib

import nbformat
import numpy as np
import pytest
from conftest import ROOT, TINY
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = ROOT / "colab"
NOTEBOOKS = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
SMALL = {key: value for key, value in TINY.items() if key.startswith("model.")}

# What takes the place of the cell `parameters`, and how many devices there are.
PARAMETERS = {
    "quickstart": ({"STEPS": 12, "WORKDIR": "runs/here"}, 1),
    "finetune_tpu": (
        {
            "DATASET": "digits",
            "CONFIG": "digits.py",
            "STEPS": 6,
            "FSDP": 2,
            "WORKDIR": "bucket/run",
            "INIT_FROM": "",
            "SETTINGS": {"batch_size": "16", **SMALL},
        },
        8,
    ),
}


def read(name):
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell):
    """Returns the Python of a cell, with its magics as calls."""
    return TransformerManager().transform_cell(cell.source)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def shown(cell):
    """Returns the pictures that a cell shows."""
    found = [output.get("data", {}).get("image/png") for output in cell.outputs]
    files = [io.BytesIO(base64.b64decode(png)) for png in found if png]
    return [np.asarray(Image.open(file).convert("L")) for file in files]


def said(cell):
    """Returns the text that a cell prints, in its own or in rich's way."""
    data = [output.get("data", {}) for output in cell.outputs]
    texts = zip(cell.outputs, data, strict=True)
    return "".join(output.get("text") or data.get("text/plain", "") for output, data in texts)


def repository():
    """Returns the files where a notebook could leave something by mistake."""
    places = [FOLDER, ROOT / "configs", ROOT / "runs"]
    found = {path for place in places for path in place.rglob("*")} | set(ROOT.glob("*.png"))
    return {path for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Returns a function that runs a notebook, once, in a folder of its own."""
    done = {}

    def execute(name):
        if name in done:
            return done[name]
        notebook, (values, devices) = read(name), PARAMETERS[name]
        (cell,) = tagged(notebook, "parameters")
        cell.source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
        home = tmp_path_factory.mktemp(name)
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_NUM_CPU_DEVICES": str(devices),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(home / "jupyter"),
        }
        before, folder = repository(), home / "cwd"
        folder.mkdir()
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=300,
            skip_cells_with_tag="tpu-only",
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=env)
        assert repository() == before
        done[name] = notebook, folder
        return done[name]

    return execute


def test_every_notebook_is_tested():
    assert set(PARAMETERS) == set(NOTEBOOKS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_is_stored_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in code_cells(notebook):
        assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    assert len(tagged(notebook, "parameters")) == 1


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_is_thin(name):
    for cell in code_cells(read(name)):
        tree = ast.parse(python(cell))
        imported = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not any(module.split(".")[0] in {"flax", "optax"} for module in imported), cell.id
        definitions = (ast.ClassDef, ast.FunctionDef)
        assert not any(isinstance(node, definitions) for node in ast.walk(tree)), cell.id


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_test_sets_every_parameter(name):
    (cell,) = tagged(read(name), "parameters")
    targets = [node.targets[0].id for node in ast.parse(cell.source).body]
    assert targets == list(PARAMETERS[name][0])


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_runs_and_shows_its_pictures(name, executed):
    notebook, _ = executed(name)
    pictures = 0
    for cell in code_cells(notebook):
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.id
        if cell.source.splitlines()[-1].startswith("viz."):
            (pixels,) = shown(cell)
            assert pixels.std() > 10, cell.id
            pictures += 1
    assert pictures >= 1


def test_the_first_run_trains_evaluates_and_predicts(executed):
    notebook, folder = executed("quickstart")
    cells = {cell.id: cell for cell in code_cells(notebook)}
    steps = PARAMETERS["quickstart"][0]["STEPS"]
    assert f"{steps} steps" in said(cells["train"])
    assert "360 images" in said(cells["evaluate"])
    assert said(cells["end"]) == f"runs/here/checkpoints/{steps}\n"
    assert (folder / "digit.png").exists()


def test_the_other_one_splits_over_the_devices_and_goes_on(executed):
    notebook, folder = executed("finetune_tpu")
    cells = {cell.id: cell for cell in code_cells(notebook)}
    assert "data 4, fsdp 2, tensor 1" in said(cells["mesh-batch"])
    assert "16 images a step, 2 a device" in said(cells["mesh-batch"])
    assert all(f"CPU {i}" in said(cells["mesh-batch"]) for i in range(8))
    assert "CPU 0,2,4,6" in said(cells["mesh-params"])
    assert "this run is complete" in said(cells["again"])
    assert "evaluations" in said(cells["end"])
    assert (folder / "bucket/run/results.json").exists()
    assert [cell.id for cell in tagged(notebook, "tpu-only")] == ["login", "prepare"]


class Shell:
    """Takes note of what a cell would have IPython do."""

    def __init__(self):
        self.lines = []

    def system(self, line):
        self.lines.append(line)

    def run_line_magic(self, name, line):
        self.lines.append(f"{name} {line}")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Returns a function that runs the install cell where vit_jax cannot be imported."""
    real = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "vit_jax" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    (tmp_path / "colab").mkdir()
    monkeypatch.chdir(tmp_path / "colab")

    def run(name, repository):
        (cell,) = [cell for cell in code_cells(read(name)) if cell.id == "install"]
        assert 'REPOSITORY = ""' in cell.source
        code = python(cell).replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
        shell = Shell()
        scope = {"get_ipython": lambda: shell}
        exec(code, scope)  # noqa: S102
        return scope["ROOT"], shell.lines

    return run


@pytest.mark.parametrize("name", PARAMETERS)
def test_install_from_nowhere_says_what_is_missing(name, install):
    with pytest.raises(ValueError, match="git URL of its repository into REPOSITORY"):
        install(name, "")


@pytest.mark.parametrize("name", PARAMETERS)
def test_install_from_the_clone_around_it(name, install, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    root, lines = install(name, "")
    assert root == tmp_path
    assert [line.split()[:2] for line in lines] == [["pip", "install"]]


@pytest.mark.parametrize("name", PARAMETERS)
def test_install_from_a_repository(name, install):
    root, (clone, pip) = install(name, "https://example.org/vit_jax.git")
    assert root.parent == pathlib.Path.cwd()
    assert clone.startswith("git clone")
    assert pip.startswith("pip install")
