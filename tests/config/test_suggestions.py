"""The field that somebody meant is found anywhere in the tree."""

import pytest

from vit_jax import config as config_lib
from vit_jax.config.suggestions import suggest_path

KNOWN = config_lib.flatten(config_lib.as_dict(config_lib.Config())).keys()


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
def test_a_near_miss_names_the_field(path, meant):
    assert suggest_path(path, KNOWN) == f"did you mean {meant}?"


def test_a_name_of_several_sections_names_them():
    said = suggest_path("every_steps", KNOWN)
    assert said == "did you mean 'checkpoint.every_steps' or 'eval.every_steps'?"


@pytest.mark.parametrize("path", ["warmup", "optim.warmup"])
def test_a_duration_without_its_unit_names_the_units(path):
    assert "'optim.warmup_steps'" in suggest_path(path, KNOWN)
    assert "ema" not in suggest_path(path, KNOWN)


def test_what_is_near_nothing_gets_the_choices():
    assert suggest_path("mix.zzz", KNOWN) == (
        "choose from mix.cutmix, mix.mixup, mix.probability, mix.switch"
    )
    assert "batch_size, " in suggest_path("zzz", KNOWN) and "optim.KEY" in suggest_path("z", KNOWN)
