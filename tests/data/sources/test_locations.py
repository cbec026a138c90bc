"""A further set is a split, a data set and its split, or a folder and its split."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data.sources.registry import open_location, open_set, split_location
from vit_jax.errors import ConfigError, DataError, InputMissingError
from vit_jax.planning.declared import declare

DIGITS = config_lib.Data(name="digits")
FIELD = "config.eval.sets[0]"


@pytest.fixture
def folder(tmp_path):
    """Two splits of the classes 3 and 8: three images of each to train, two to validate."""
    for split, count in (("train", 3), ("val", 2)):
        for name in ("3", "8"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(np.full((8, 8), 20 * int(name) + i, np.uint8))
                image.save(tmp_path / "photos" / split / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_set_is_read_from_a_folder_with_the_classes_of_the_model(folder, tiny_config):
    config = tiny_config({"eval.sets": f"('mine','{folder}:val'),"})
    digits = tuple("0123456789")
    source = open_set(config, "mine", digits)
    assert [source[i]["label"] for i in range(4)].count(8) == 2
    assert (source.class_names, source.title) == (digits, f"{folder}:val")
    assert sorted(map(source.file_name, range(4))) == ["0.png", "0.png", "1.png", "1.png"]


@pytest.mark.parametrize("split", ["val", "train+val", "train[:2]"])
def test_a_folder_has_the_splits_of_any_source(folder, split):
    source = open_location(DIGITS, f"{folder}:{split}", FIELD)
    assert len(source) == {"val": 4, "train+val": 10, "train[:2]": 2}[split]
    assert source.class_names == ("3", "8")


def test_a_relative_folder_starts_with_a_dot(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert len(open_location(DIGITS, "./photos:val", FIELD)) == 4
    with pytest.raises(ConfigError, match=r"unknown 'photos'.*; for the folder, write \./photos$"):
        open_location(DIGITS, "photos:val", FIELD)


def test_a_data_set_stands_beside_the_folder_of_the_run(folder):
    of_run = dataclasses.replace(DIGITS, root=str(folder))
    assert len(open_location(of_run, "val", FIELD)) == 4
    assert len(open_location(of_run, "digits:test[:7]", FIELD)) == 7


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("{0}", ConfigError, "'{0}' names no split; expected FOLDER:SPLIT, {0}:val"),
        ("{0}:tset", ConfigError, "no split 'tset' in {0}, which has train and val"),
        ("{0}/none:val", InputMissingError, "no such folder: '{0}/none'"),
        ("{0}/val/3:val", DataError, "{0}/val/3 has no folders; expected one per class"),
        ("{0}:val[:0]", DataError, "'val[:0]' of {0} holds no image"),
        (
            "{0}/..:train",
            DataError,
            "one class only: {0}/../photos has train/ and val/ in it; pass the folder",
        ),
        ("cifar10:test", InputMissingError, "'cifar10' is not prepared in "),
    ],
)
def test_an_error_names_the_field_once(folder, where, error, message):
    with pytest.raises(error) as caught:
        open_location(DIGITS, where.format(folder), FIELD)
    assert str(caught.value).startswith(f"{FIELD}: {message.format(folder)}")
    assert "config.data.root" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_with_another_class_is_refused(folder):
    with pytest.raises(DataError, match=r"val/8: not a class; the classes are 3, 4"):
        open_location(DIGITS, f"{folder}:val", FIELD, ("3", "4"))


def test_a_plan_does_not_read_the_folder(folder, tiny_config):
    config = tiny_config({"data.name": "cifar10", "model.num_classes": "10"})
    sets = dataclasses.replace(config.eval, sets=(("mine", f"{folder}:val"),))
    with pytest.raises(ConfigError, match=f"a plan does not read '{folder}'"):
        declare(dataclasses.replace(config, eval=sets))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("/data/photos:val", ("/data/photos", "val")),
        ("~/a[1]/b:train[:5]+val", ("~/a[1]/b", "train[:5]+val")),
    ],
)
def test_brackets_and_colons_of_a_folder_are_its_own(where, expected):
    assert split_location(where) == expected
