"""The notebooks run from top to bottom, on one device and on eight, and show their figures."""

import ast
import base64
import importlib.util
import io
import json
import os
import pathlib
import re

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
    "attention": ({"STEPS": 150, "WORKDIR": "runs/here"}, 1),
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
def test_cells_have_no_definitions(name):
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


def test_the_tpu_notebook_shards_over_the_devices_and_resumes(executed):
    notebook, folder = executed("finetune_tpu")
    cells = {cell.id: cell for cell in code_cells(notebook)}
    assert "data 4, fsdp 2, tensor 1" in said(cells["mesh-batch"])
    assert "16 images per step, 2 per device" in said(cells["mesh-batch"])
    assert all(f"CPU {i}" in said(cells["mesh-batch"]) for i in range(8))
    assert "CPU 0,2,4,6" in said(cells["mesh-params"])
    assert "this run is complete" in said(cells["again"])
    assert "evaluations" in said(cells["end"])
    assert (folder / "bucket/run/results.json").exists()
    assert [cell.id for cell in tagged(notebook, "tpu-only")] == ["login", "prepare"]


def test_the_attention_notebook_opens_a_model_that_has_learned_something(executed):
    notebook, folder = executed("attention")
    cells = {cell.id: cell for cell in code_cells(notebook)}
    results = json.loads((folder / "runs/here/results.json").read_text())
    assert results["eval"]["test"]["top1"] > 0.5
    sums = re.findall(r"sums ([\d.]+) to ([\d.]+)", said(cells["attention"]))
    assert len(sums) == 4
    np.testing.assert_allclose(np.array(sums, float), 1, atol=1e-5)
    assert "uniform attention: 8.0 pixels" in said(cells["distance"])
    falls = re.findall(r"falls (-?[\d.]+)", said(cells["covered"]))
    assert len(falls) == 2


class Shell:
    """Records the commands of a cell, and clones an empty repository where it can."""

    def __init__(self, can_clone):
        self.lines = []
        self.can_clone = can_clone

    def system(self, line):
        self.lines.append(line)
        if self.can_clone:
            clone = pathlib.Path("vit_jax-clone")
            clone.mkdir()
            (clone / "pyproject.toml").touch()

    def run_line_magic(self, name, line):
        self.lines.append(f"{name} {line}")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Returns a function that runs the install cell, by default where nothing is installed."""
    (tmp_path / "colab").mkdir()
    monkeypatch.chdir(tmp_path / "colab")
    real = importlib.util.find_spec

    def run(name, repository, installed=(), programs=(), can_clone=True):
        packages = {"vit_jax", "tensorflow", "libtpu"} - set(installed)

        def find_spec(name, *rest):
            return None if name in packages else real("json" if name in installed else name, *rest)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        monkeypatch.setattr("shutil.which", lambda name: name if name in programs else None)
        (cell,) = [cell for cell in code_cells(read(name)) if cell.id == "install"]
        assert 'REPOSITORY = ""' in cell.source
        code = python(cell).replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
        shell = Shell(can_clone)
        scope = {"get_ipython": lambda: shell}
        exec(code, scope)  # noqa: S102
        run.extras = scope["extras"]
        return scope["ROOT"], shell.lines

    return run


@pytest.mark.parametrize("name", PARAMETERS)
def test_install_without_a_repository_says_where_to_set_it(name, install):
    with pytest.raises(ValueError, match="REPOSITORY is empty: set it to the git URL"):
        install(name, "")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_failed_clone_says_which_url_to_correct(name, install):
    with pytest.raises(ValueError, match=r"cannot clone vit_jax from 'typo\.git': correct REPOS"):
        install(name, "typo.git", can_clone=False)


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


@pytest.mark.parametrize(
    ("name", "installed", "programs", "extras"),
    [
        ("quickstart", (), (), ["plot"]),
        ("quickstart", (), ("nvidia-smi",), ["plot", "cuda"]),
        ("quickstart", ("libtpu",), (), ["plot", "tpu"]),
        ("attention", (), (), ["plot"]),
        ("finetune_tpu", (), (), ["plot", "gcs", "tpu", "tfds"]),
        ("finetune_tpu", ("tensorflow",), (), ["plot", "gcs", "tpu"]),
        ("finetune_tpu", ("tensorflow",), ("nvidia-smi",), ["plot", "gcs", "cuda"]),
    ],
)
def test_install_adds_what_the_runtime_lacks(name, installed, programs, extras, install, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    install(name, "", installed, programs)
    assert install.extras == extras
