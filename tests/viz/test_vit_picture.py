"""The picture of a ViT in the docs is drawn from the values of a model."""

import importlib.util
import io

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import Pretrained

SCRIPT = ROOT / "docs" / "make_vit_picture.py"


@pytest.fixture(scope="module")
def script():
    """Returns the module of the script."""
    spec = importlib.util.spec_from_file_location("make_vit_picture", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_values_of_the_model(script):
    sizes = {"width": 16, "depth": 2, "num_heads": 4, "mlp_dim": 8, "num_classes": 10}
    model = models.create("vit_mu4", **sizes)
    data = config_lib.Data(name="digits", image_size=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
    variables = nn.unbox(models.init_variables(model, (16, 16, 1), 0))
    pretrained = Pretrained(0, tuple("0123456789"), model, variables, "", data)
    values = script.forward(pretrained, 3)
    images = pretrained.preprocess([script.Digits(data, "test")[3]["image"]])
    features = models.features(model, variables, images, ["blocks_0/attn/qkv", "blocks_0/attn"])
    out = variables["params"]["blocks_0"]["attn"]["out"]
    mixed = np.einsum("hnm,mhc->nhc", values.attention[0], features["blocks_0/attn/qkv"][2, 0])
    attended = np.einsum("nhc,hcd->nd", mixed, out["kernel"]) + out["bias"]
    np.testing.assert_allclose(attended, features["blocks_0/attn"][0], atol=1e-5)
    logits = models.forward(model, variables, images).logits[0]
    np.testing.assert_allclose(values.probabilities, jax.nn.softmax(logits), atol=1e-6)
    with Image.open(io.BytesIO(script.draw(values).png())) as picture:
        assert picture.size == (script.WIDTH, script.HEIGHT)


def test_the_stored_picture_is_that_of_the_script(script):
    path = ROOT / "docs" / "vit.png"
    with Image.open(path) as picture:
        assert picture.size == (script.WIDTH, script.HEIGHT)
    assert path.stat().st_size < 200_000
