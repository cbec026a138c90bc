"""Suggestions for an unknown field."""

import pytest

from vit_jax import config as config_lib
from vit_jax.config.suggestions import suggest_path

FIELDS = config_lib.flatten(config_lib.as_dict(config_lib.Config())).keys()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("learning_rate", "'optim.learning_rate'"),
        ("optim.lr", "'optim.learning_rate'"),
        ("lr", "'optim.learning_rate'"),
        ("wd", "'optim.weight_decay'"),
        ("epochs", "'total_epochs'"),
        ("batch_sze", "'batch_size'"),
        ("optim.lerning_rate", "'optim.learning_rate'"),
        ("optm.learning_rate", "'optim.learning_rate'"),
        ("optim.mixup", "'mix.mixup'"),
        ("image_size", "'data.image_size'"),
        ("model.image_size", "'data.image_size'"),
        ("data.colour_jitter", "'data.color_jitter'"),
        ("optim.name2", "'optim.name'"),
        ("depth", "'model.depth'"),
    ],
)
def test_a_similar_name_is_suggested(path, meant):
    assert suggest_path(path, FIELDS) == f"did you mean {meant}?"


def test_a_name_in_several_sections_suggests_all_of_them():
    suggestion = suggest_path("every_steps", FIELDS)
    assert suggestion == "did you mean 'checkpoint.every_steps' or 'eval.every_steps'?"


@pytest.mark.parametrize("path", ["warmup", "optim.warmup"])
def test_a_duration_without_its_unit_suggests_the_units(path):
    assert "'optim.warmup_steps'" in suggest_path(path, FIELDS)
    assert "ema" not in suggest_path(path, FIELDS)


def test_a_name_without_similar_ones_lists_the_choices():
    assert suggest_path("mix.zzz", FIELDS) == (
        "choose from mix.cutmix, mix.mixup, mix.probability, mix.switch"
    )
    assert "batch_size, " in suggest_path("zzz", FIELDS) and "optim.KEY" in suggest_path(
        "z", FIELDS
    )
