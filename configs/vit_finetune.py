"""Fine-tuning as in the ViT paper (Dosovitskiy et al. 2021, table 4 and section B.1.1).

  python -m vit_jax.prepare --dataset=cifar10
  python -m vit_jax.train --config=configs/vit_finetune.py:cifar10_500 --config.init_from=DIR

The authors report top-1 of B/16 from ImageNet-21k (README of vision_transformer): CIFAR-10 98.59
after 500 steps in 17 minutes, 98.86 after 1,000 steps in 39 minutes, 99.02 after 10,000; CIFAR-100
92.06; ImageNet 84.53 after 20,000 steps in 6.5 hours on A100s. Nobody has run this recipe with this
code yet.

Cost: batch size 512 at 384 pixels; 500 steps in 17 minutes are 250 images/s. Parameters, gradients
and momentum take 10 bytes per parameter: 0.9 GB, plus activations. On one TPU v5e with 16 GB, add
--config.optim.accum_steps=8, which needs 13.0 GiB. `--config.model.name` selects another size or
the hybrid R50+B/16, whose reported top-1 is 98.72 (CIFAR-10), 90.88 (CIFAR-100) and 83.72
(ImageNet).

Smallest slices and their peaks in GiB (docs/recipes.md): h100:1 (54.9), v5e:2x2 (14.4), v4:2x2x1
(24.3).
"""

from typing import NamedTuple

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick


class Recipe(NamedTuple):
    """The settings that depend on the data set and the number of steps."""

    dataset: str
    steps: int
    warmup_steps: int
    learning_rate: float


RECIPES = {
    "cifar10_500": Recipe("cifar10", steps=500, warmup_steps=50, learning_rate=0.01),
    "cifar10_1000": Recipe("cifar10", steps=1000, warmup_steps=100, learning_rate=0.01),
    "cifar10_10000": Recipe("cifar10", steps=10_000, warmup_steps=500, learning_rate=0.03),
    "cifar100_500": Recipe("cifar100", steps=500, warmup_steps=50, learning_rate=0.01),
    "cifar100_1000": Recipe("cifar100", steps=1000, warmup_steps=100, learning_rate=0.01),
    "cifar100_10000": Recipe("cifar100", steps=10_000, warmup_steps=500, learning_rate=0.03),
    "imagenet": Recipe("imagenet2012", steps=20_000, warmup_steps=500, learning_rate=0.03),
}


def get_config(recipe: str = "cifar10_500") -> ml_collections.ConfigDict:
    """Return the config for a data set and a number of steps."""
    chosen = pick(RECIPES, recipe, "--config=configs/vit_finetune.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 512
    c.total_steps = chosen.steps
    c.model = models.spec("vit_b16", num_classes=0, dtype="bfloat16")
    c.data.name = chosen.dataset
    if recipe == "imagenet":
        c.data.train_split = "train[:99%]"
        c.data.val_split = "train[99%:]"
        c.data.test_split = "validation"
    else:
        c.data.train_split = "train[:98%]"
        c.data.val_split = "train[98%:]"
        c.data.test_split = "test"
    c.data.image_size = (384, 384)
    c.data.crop = "inception"
    c.data.crop_area = (0.05, 1.0)
    c.data.fit = "squash"
    c.data.interpolation = "bilinear"
    c.data.flip = True
    c.optim.name = "sgd"
    c.optim.learning_rate = chosen.learning_rate
    c.optim.warmup_steps = chosen.warmup_steps
    c.optim.clip_norm = 1.0
    c.optim.moment_dtype = "bfloat16"
    c.eval.every_steps = max(100, chosen.steps // 10)
    c.checkpoint.every_steps = max(100, chosen.steps // 10)
    return c
