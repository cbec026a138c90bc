"""Notes on settings that are valid, but probably not meant."""

import re

import pytest
from conftest import ROOT
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.config import stored
from vit_jax.training.advice import add_advice

RECIPE = f"{ROOT}/configs/finetune_folder.py"


def advice(recipe=RECIPE, **flags):
    flags = {"model.name": "vit_mu16", **{k.replace("__", "."): v for k, v in flags.items()}}
    flags = {key: value for key, value in flags.items() if value}
    resolved = config_lib.resolve(config_lib.load_config_file(recipe), flags)
    return add_advice(resolved).notes[len(resolved.notes) :]


def test_a_linear_probe_at_the_rate_of_the_whole_model():
    (note,) = advice(optim__tune="head")
    assert note.startswith("config.optim.learning_rate is 0.0001 (configs/finetune_folder.py:")
    assert note.endswith(
        "), which is meant for all parameters; a linear probe needs a higher one: "
        "--config.optim.learning_rate=0.01"
    )
    (note,) = advice(optim__tune="head", optim__name="sgd")
    assert note.endswith("--config.optim.learning_rate=RATE")


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        (RECIPE, {}),
        (f"{RECIPE}:probe", {}),
        (f"{RECIPE}:probe", {"optim__tune": "head"}),
        (RECIPE, {"optim__tune": "head", "optim__learning_rate": "1e-3"}),
    ],
)
def test_a_rate_that_is_meant_needs_no_note(recipe, flags):
    assert advice(recipe, **flags) == ()


@pytest.fixture
def source(tmp_path):
    """The config of a model that was trained at 518 pixels."""
    config = config_lib.Config(
        model=models.spec("vit_mu14").to_dict(), data=config_lib.Data(image_size=(518, 518))
    )
    stored.write(epath.Path(tmp_path), config, {})
    return str(tmp_path)


def test_an_expensive_image_size_that_comes_with_the_weights(source):
    (note,) = advice(init_from=source, model__name="")
    assert re.fullmatch(
        rf"config\.data\.image_size is 518x518 \(init_from {source}\): 1,369 patch tokens per "
        r"image, \d+\.\d times the GFLOPs of 224x224; "
        r"--config\.data\.image_size=224,224 is cheaper",
        note,
    )
    assert advice(init_from=source, model__name="", data__image_size="518,518") == ()
    assert advice(init_from=source, model__name="", data__image_size="70,70") == ()
