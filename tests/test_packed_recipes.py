"""Recipes without a clone: `--config=configs/NAME.py` finds those that are packed in the wheel."""

import os
import shutil
import tomllib

import pytest
from conftest import ROOT

from vit_jax import config
from vit_jax.config import files
from vit_jax.errors import ConfigError
from vit_jax.settings import recorded

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Recipes inside of the package, as in a wheel; the current directory is empty."""
    package = tmp_path / "site-packages" / "vit_jax"
    shutil.copytree(ROOT / "configs", package / "configs")
    monkeypatch.setattr(recorded, "RECIPES", package / "configs")
    monkeypatch.setattr(files, "RECIPES", package / "configs")
    monkeypatch.setattr(recorded, "_PACKAGES", (*recorded._PACKAGES, f"{package}{os.sep}"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return package / "configs"


def origin(tree, path):
    return dict(tree.leaves())[path].origin


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_recipe_is_found_and_named_as_in_a_clone(name, installed, monkeypatch):
    packed = config.load_config_file(f"configs/{name}.py")
    monkeypatch.chdir(ROOT)
    local = config.load_config_file(f"configs/{name}.py")
    assert list(packed.leaves()) == list(local.leaves())
    assert origin(packed, "batch_size").startswith(f"configs/{name}.py:")


def test_a_clone_that_is_installed_has_recipes_in_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = config.load_config_file("./configs/deit.py:s")
    line = (ROOT / "configs" / "deit.py").read_text().splitlines().index("    c.batch_size = 1024")
    assert origin(tree, "batch_size") == f"configs/deit.py:{line + 1}"


def test_a_file_in_the_current_directory_wins(installed):
    os.mkdir("configs")
    text = (installed / "digits.py").read_text()
    with open("configs/digits.py", "w") as file:
        file.write(text.replace("c.batch_size = 64", "c.batch_size = 32"))
    tree = config.load_config_file("configs/digits.py")
    assert tree.batch_size == 32
    assert origin(tree, "batch_size").startswith("configs/digits.py:")


def test_a_packed_recipe_that_fails_is_named_with_its_line(installed):
    (installed / "bad.py").write_text("def get_config():\n  return y\n")
    with pytest.raises(ConfigError, match=r"^configs/bad\.py:2: NameError"):
        config.load_config_file("configs/bad.py")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "configs/dijits.py",
            "no such file: 'configs/dijits.py'; did you mean 'configs/digits.py'?",
        ),
        ("mine.py", "no such file: 'mine.py'; expected a path or a recipe. The recipes are"),
        ("digits.py", "no such file: 'digits.py'; did you mean 'configs/digits.py'?"),
        ("other/configs/digits.py", "no such file: 'other/configs/digits.py'; did you mean"),
    ],
)
def test_an_unknown_config_is_refused_with_the_recipes(path, message, installed):
    with pytest.raises(ConfigError) as error:
        config.load_config_file(path)
    assert message in str(error.value)
    assert ", ".join(NAMES) in str(error.value)


def test_the_wheel_has_the_recipes_and_the_repository_has_one_copy():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["sources"] == {"configs": "vit_jax/configs"}
    assert build["targets"]["wheel"]["only-include"] == ["vit_jax", "configs"]
    assert not (ROOT / "vit_jax" / "configs").exists()
