"""The sizes of data sets that a plan does not read."""

import dataclasses

import pytest
from test_recipes import recipes

from vit_jax import config as config_lib
from vit_jax.data.sources.registry import SOURCES
from vit_jax.data.sources.splits import select
from vit_jax.errors import ConfigError
from vit_jax.planning.declared import KNOWN, declare


@pytest.fixture
def config(tiny_config):
    def make(**overrides):
        given = {"model.num_classes": "0", **overrides}
        return tiny_config({key.replace("__", "."): value for key, value in given.items()})

    return make


def test_a_well_known_set_has_its_classes_and_splits(config):
    made = config(
        data__name="imagenet2012:5.1.0",
        data__train_split="train[:99%]",
        data__val_split="train[99%:]",
        data__test_split="validation",
    )
    sets = dataclasses.replace(made.eval, sets=(("v2", "imagenet_v2:test"),))
    data = declare(dataclasses.replace(made, eval=sets))
    sizes = {name: len(source) for name, source in data.sources.items()}
    assert sizes == {"train": 1_268_355, "val": 12_812, "test": 50_000, "v2": 10_000}
    assert {len(source.class_names) for source in data.sources.values()} == {1000}
    assert data.text == (
        "1,268,355 training images, 1,000 classes, not read; "
        "imagenet2012:5.1.0 (Russakovsky et al. 2015)"
    )
    with pytest.raises(TypeError, match="no images"):
        data.sources["train"][0]


def test_a_set_of_the_program_is_its_own(config):
    data = declare(config())
    assert len(data.sources["train"]) == 64
    assert data.text == "synthetic: 64 training images, 10 classes, its own"


def test_an_unknown_set_or_a_folder_takes_the_sizes_of_the_flags(config):
    for data in ({"data__name": "my_set"}, {"data__name": "", "data__root": "photos"}):
        made = config(model__num_classes="7", data__train_split="train[:90%]", **data)
        found = declare(made, num_images=1000)
        assert {name: len(source) for name, source in found.sources.items()} == {
            "train": 900,
            "test": 1000,
        }
        assert len(found.sources["train"].class_names) == 7
        assert "classes: config.model.num_classes; images: --num_images" in found.text


@pytest.mark.parametrize(
    ("overrides", "num_images", "problem"),
    [
        (
            {"data__name": "my_set"},
            0,
            "config.data.name: a plan does not read 'my_set', and its size is not known; pass "
            "--config.model.num_classes=CLASSES --num_images=TRAINING_IMAGES",
        ),
        (
            {"data__name": "", "data__root": "photos", "model__num_classes": "3"},
            0,
            "config.data.root: a plan does not read 'photos', and its size is not known; pass "
            "--num_images=TRAINING_IMAGES",
        ),
        (
            {"data__name": "my_set"},
            5,
            "config.data.name: a plan does not read 'my_set', and its size is not known; pass "
            "--config.model.num_classes=CLASSES",
        ),
        ({"data__name": "cifar10", "data__train_split": "trian"}, 0, "config.data.train_split: "),
        ({}, 5, "--num_images: 'synthetic' has its own number of images"),
    ],
)
def test_what_is_not_known_is_one_line(config, overrides, num_images, problem):
    with pytest.raises(ConfigError) as error:
        declare(config(**overrides), num_images)
    assert str(error.value).startswith(problem)


def test_the_flag_replaces_the_size_of_a_known_training_set(config):
    data = declare(config(data__name="cifar10"), num_images=1234)
    assert (len(data.sources["train"]), len(data.sources["test"])) == (1234, 10_000)
    assert "classes: cifar10 (Krizhevsky 2009); images: --num_images" in data.text


def test_every_recipe_has_sizes():
    """The data set of every recipe is in the table, is part of the program, or is a folder."""
    for recipe in recipes():
        c = config_lib.load_config_file(recipe)
        name = c.data.name
        if name:
            assert name in {*KNOWN, *SOURCES}, recipe
            for split in filter(None, (c.data.train_split, c.data.val_split, c.data.test_split)):
                if name in KNOWN:
                    assert select(split, KNOWN[name].splits), recipe
