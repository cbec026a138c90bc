"""Sheets of two models look as they did when a person last looked at them.

`python tests/viz/test_golden_sheets.py` writes the pictures anew; look at them.
"""

import dataclasses
import pathlib
import sys

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from conftest import TINY
from golden_cases import FIXTURES, Case

from vit_jax import config as config_lib
from vit_jax import convert, models
from vit_jax.data import transforms
from vit_jax.interpretation.components import component_colours
from vit_jax.interpretation.hooks import attention_layers
from vit_jax.interpretation.overview import OF_IMAGES, image_maps
from vit_jax.viz.map_sheets import map_sheet

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def digits():
    """A model as small as one of digits, with random parameters, and a grey image."""
    tree = config_lib.to_config_dict(config_lib.Config())
    config = config_lib.resolve(tree, {**TINY, "data.image_size": "16,16"}).config
    model = models.create(**config.model)
    shapes = nn.meta.unbox(models.abstract_variables(model, config.data.image_shape))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32), shapes
    )
    rows, columns = np.mgrid[:16, :16]
    ring = 255 * (np.abs(np.hypot(rows - 7, columns - 8) - 5) < 1.5)
    return model, variables, config.data, ring[..., None].astype(np.uint8)


def dinov2():
    """The small DINOv2 of the weight tests, and an image that it gets there."""
    case = Case(FIXTURES / "hf_dinov2_cls.json")
    flags = case.model
    imported = convert.import_weights(case.source, case.weights, flags.pop("name"), flags)
    tree = {name: jnp.asarray(value) for name, value in imported.params.items()}
    variables = {"params": flax.traverse_util.unflatten_dict(tree, sep="/")}
    model = models.create(**imported.config.model)
    rows, columns = np.mgrid[:42, :56]
    pixels = np.stack([4 * rows, 3 * columns, 255 * (rows // 8 % 2)], axis=-1).astype(np.uint8)
    data = dataclasses.replace(imported.config.data, image_size=(42, 56))
    return model, variables, data, pixels


CASES = {"digits": digits, "dinov2": dinov2}


def draw(name):
    """Returns the sheet of a case."""
    model, variables, data, pixels = CASES[name]()
    image = transforms.normalize(jnp.asarray(pixels[None]), data.mean, data.std)
    output = models.forward(model, variables, image)
    top = int(output.logits[0].argmax())
    maps, lacking = image_maps(model, variables, image, OF_IMAGES, attention_layers(model), top)
    assert not lacking
    height, width, num_prefix = output.grid
    features = np.asarray(output.tokens)[:, num_prefix:].reshape(1, height, width, -1)
    maps = maps._replace(components=component_colours(features)[0][0])
    label = f"class {top}"
    return map_sheet(name, pixels, maps, OF_IMAGES, caption=label, label=label, width=112)


@pytest.mark.parametrize("name", CASES)
def test_a_sheet_is_the_one_that_was_looked_at(name):
    """A level of 255 may differ by rounding; text may be drawn a little differently."""
    with Image.open(GOLDENS / f"{name}.png") as image:
        expected = np.asarray(image.convert("RGB"), int)
    found = np.asarray(draw(name), int)
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.mean() < 0.5
    assert (difference <= 2).mean() > 0.99


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    for name in CASES:
        draw(name).save(GOLDENS / f"{name}.png", optimize=True)
