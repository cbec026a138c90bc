"""A user's own part, brought by --import: trained, evaluated and used in fresh processes."""

import sys

import numpy as np
import pytest
from conftest import tiny_flags
from PIL import Image

from vit_jax.console.imports import import_modules
from vit_jax.errors import ConfigError

NO_WARMUP = "--config.optim.warmup_steps=0"
OWN = '''
"""An attention of the user's own."""

from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.full import FullAttention
from vit_jax.models.parts import free


class Sharp(FullAttention):
    """Full attention with multiplied scores."""

    sharpness: float = free(2.0, "factor of the scores", above=0)

    def _attend(self, q, k, v, grid, train):
        return super()._attend(q * self.sharpness, k, v, grid, train)


ATTENTIONS["sharp"] = Sharp
'''


@pytest.fixture
def run_own(run_command, tmp_path):
    """Returns a function that runs a command beside the user's module."""
    (tmp_path / "own.py").write_text(OWN)
    return run_command


def test_a_run_with_a_users_part_trains_evaluates_and_predicts_in_fresh_processes(
    run_own, tmp_path
):
    chosen = ["--config.model.attention=sharp", "--config.model.attention.sharpness=3"]
    trained = run_own("train", *tiny_flags("--import=own", "--workdir=run", NO_WARMUP, *chosen))
    assert trained.returncode == 0, trained.stderr
    config = (tmp_path / "run" / "config.json").read_text()
    assert '"sharpness": 3.0' in config and '"own"' not in config
    evaluated = run_own("evaluate", "--workdir=run", "--import=own")
    assert evaluated.returncode == 0 and "top-1" in evaluated.stdout, evaluated.stderr
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    predicted = run_own("predict", "--import=own", "--workdir=run", "a.png")
    assert predicted.returncode == 0 and "a.png" in predicted.stdout, predicted.stderr
    for command in (["evaluate", "--workdir=run"], ["predict", "--workdir=run", "a.png"]):
        without = run_own(*command)
        assert without.returncode == 64
        (line,) = without.stderr.splitlines()
        assert "config.model.attention.name: unknown 'sharp'" in line
        assert "--import=MODULE" in line and "config.json" in line


@pytest.mark.parametrize(
    ("text", "flag", "message"),
    [
        ("", "own.py", "expected the name of a module, got the file own.py; pass --import=own"),
        ("", "onw", "no module 'onw' in "),
        ("import numpyy", "own", "ModuleNotFoundError: No module named 'numpyy'"),
        ("x = 1\n1 / 0", "own", "own.py:2: ZeroDivisionError: division by zero"),
        ("def f(:", "own", "own.py:1: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(monkeypatch, tmp_path, text, flag, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError) as error:
        import_modules(flag)
    assert str(error.value).startswith("--import: ") and message in str(error.value)
