"""A trained run is opened from its work directory."""

import io
import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import pretrained
from vit_jax.errors import DataError, InputMissingError


def model_of(config):
    """A model without variables, for its preprocessing."""
    return pretrained.Pretrained(0, ("a",), models.create(**config.model), {}, "", config.data)


def cut_off():
    """An image that Pillow opens but cannot load."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:60]))


def test_a_run_config_is_read_back_and_a_wrong_one_refused(tmp_path, tiny_config):
    workdir = epath.Path(tmp_path)
    with pytest.raises(InputMissingError, match="no such file"):
        config_lib.read_config(workdir)
    (workdir / "config.json").write_text("{")
    with pytest.raises(InputMissingError, match="not valid JSON"):
        config_lib.read_config(workdir)
    config = tiny_config()
    (workdir / "config.json").write_text(json.dumps(config_lib.as_dict(config)))
    assert config_lib.read_config(workdir) == config
    for text in ("null", "5", '"abc"', "[]", '{"model_type": "vit"}', '{"architecture": "vit"}'):
        (workdir / "config.json").write_text(text)
        with pytest.raises(InputMissingError, match="expected the settings of a run"):
            config_lib.read_config(workdir)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: "nowhere.png", r"nowhere\.png: no such file"),
        (cut_off, r"image\[1\]: "),
        (lambda: np.zeros((8, 8, 1), np.float32), r"image\[1\]: expected uint8"),
    ],
    ids=["missing", "cut off", "not uint8"],
)
def test_an_image_that_cannot_be_read_is_one_line(make, said, tiny_config):
    with pytest.raises(DataError, match=said) as error:
        model_of(tiny_config()).preprocess([np.zeros((8, 8, 1), np.uint8), make()])
    assert "\n" not in str(error.value)


def test_no_images_make_an_empty_batch(tiny_config):
    assert model_of(tiny_config()).preprocess([]).shape == (0, 8, 8, 1)
