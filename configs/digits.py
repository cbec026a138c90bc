"""A 137k-parameter ViT on the handwritten digits that ship with the package.

Measured with this code: test top-1 99.26 % (mean of seeds 0, 1 and 2, which range from 98.61 to
99.72 %; 360 images), in about a minute on 2 CPU cores.

python -m vit_jax.train --config=configs/digits.py

With `:transfer` it trains on a tenth of the images from the weights of `--config.init_from=RUN`,
for instance of a run on Fashion-MNIST.

Smallest slices and their peaks in GiB (docs/recipes.md): scratch: h100:1 (0.02), v5e:1x1 (0.01),
v4:2x2x1 (0.01); transfer: h100:1 (0.01), v5e:1x1 (0.004), v4:2x2x1 (0.004).
"""

from typing import NamedTuple

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick


class Recipe(NamedTuple):
    """The settings that differ between the two recipes."""

    steps: int
    train_split: str
    learning_rate: float


RECIPES = {
    "scratch": Recipe(steps=2000, train_split="train[:90%]", learning_rate=2e-3),
    "transfer": Recipe(steps=500, train_split="train[:10%]", learning_rate=1e-3),
}


def get_config(recipe: str = "scratch") -> ml_collections.ConfigDict:
    """Return the config of `scratch`, or of `transfer` from the weights of another run."""
    chosen = pick(RECIPES, recipe, "--config=configs/digits.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 64
    c.total_steps = chosen.steps
    if recipe == "scratch":
        c.model = models.spec("vit_mu4", width=64, depth=4, num_heads=4, mlp_dim=128)
        c.data.image_size = (16, 16)
    else:
        c.model = {"name": ""}  # from `init_from`, like the image size
    c.model.num_classes = 0
    c.data.name = "digits"
    c.data.train_split = chosen.train_split
    c.data.val_split = "train[90%:]"
    c.data.test_split = "test"
    c.data.channels = 1
    c.data.mean = (0.5,)
    c.data.std = (0.5,)
    c.data.affine.degrees = 15.0
    c.data.affine.scale = 0.15
    c.data.affine.shift = 0.06
    c.data.threads = 2
    c.optim.learning_rate = chosen.learning_rate
    c.optim.warmup_steps = 100
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.eval.every_steps = 500
    c.eval.batch_size = 360
    c.checkpoint.every_steps = 500
    return c
