"""A change of a single bit in a sealed step is found."""

import os
import random
import shutil

import pytest
from etils import epath

from vit_jax.checkpoints import seals
from vit_jax.errors import CheckpointError


@pytest.fixture
def step(tmp_path):
    path = epath.Path(tmp_path) / "7"
    (path / "params" / "d").mkdir(parents=True)
    (path / "params" / "d" / "block").write_bytes(bytes(range(256)) * 8)
    (path / "meta").write_text("{}")
    seals.seal(path, 0.5)
    return path


def _link_to_nowhere(path):
    path.unlink()
    os.symlink("/nowhere", path)


def test_a_sealed_step_is_good(step):
    assert seals.find_corruption(step) == ""
    assert seals.read_seal(step)["score"] == 0.5
    assert seals.sealed_steps(step.parent) == [7]


def test_any_flipped_bit_is_found(step):
    rng = random.Random(0)
    files = sorted(str(path) for path in (step / "params" / "d" / "block", step / seals.SEAL))
    for _ in range(60):
        path = epath.Path(rng.choice(files))
        content = path.read_bytes()
        place = rng.randrange(len(content))
        flipped = bytes([content[place] ^ (1 << rng.randrange(8))])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        assert seals.find_corruption(step), (path, place)
        path.write_bytes(content)
    assert seals.find_corruption(step) == ""


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda step: (step / "meta").unlink(), "meta is missing"),
        (lambda step: (step / "meta").write_text(""), "meta has changed"),
        (lambda step: _link_to_nowhere(step / "meta"), "it cannot be read: No such file"),
        (lambda step: (step / seals.SEAL).write_text("[]"), "its seal is unreadable"),
        (lambda step: (step / seals.SEAL).write_text(""), "its seal is unreadable"),
    ],
)
def test_damage_is_named(step, harm, problem):
    harm(step)
    assert seals.find_corruption(step).startswith(problem)


def test_files_of_others_are_no_damage(step):
    (step / "params" / ".nfs0001").write_text("x")
    assert seals.find_corruption(step) == ""


def test_sealing_again_changes_the_score(step):
    seals.rescore(step, 0.9)
    assert seals.scores(step.parent) == {7: 0.9}
    assert seals.find_corruption(step) == ""


def test_the_best_is_the_newest_of_the_highest(step):
    for number, score in ((8, 0.9), (9, None), (10, 0.9), (11, 0.1)):
        (step.parent / str(number)).mkdir()
        seals.seal(step.parent / str(number), score)
    (step.parent / "12").mkdir()  # not sealed
    assert seals.sealed_steps(step.parent) == [7, 8, 9, 10, 11]
    assert seals.best_step(step.parent) == 10


def test_a_damaged_seal_is_an_error_of_its_own(step):
    (step / seals.SEAL).write_text((step / seals.SEAL).read_text().replace("0.5", "0.6"))
    with pytest.raises(CheckpointError, match="the seal is corrupt"):
        seals.read_seal(step)
    assert seals.scores(step.parent) == {}


def test_a_copied_step_is_not_another_step(step):
    shutil.copytree(step, step.parent / "70")
    assert seals.find_corruption(step.parent / "70") == "its seal belongs to step 7"
    assert seals.find_corruption(step) == ""
