"""Transfer of AugReg weights to small data sets, as in big_vision (its `configs/transfer.py`).

  python -m vit_jax.prepare --dataset=oxford_iiit_pet
  python -m vit_jax.train --config=configs/transfer.py:pets --config.init_from=weights/b32

big_vision reports top-1 of B/32, mean and range of five runs: Pets 93.78 [93.62, 94.00], Flowers
99.43 [99.42, 99.45], CIFAR-10 98.55 [98.46, 98.60], CIFAR-100 91.35 [91.09, 91.62], ImageNet 83.27
[83.22, 83.33]. Nobody has run this recipe with this code yet.

Cost: batch size 512 at 384 pixels; 500 steps for Pets and Flowers are 256,000 images, so that a run
of ten minutes needs 430 images/s. Parameters, gradients and momentum take 10 bytes per parameter:
0.9 GB, plus activations. `--config.model.name` selects another size.

Smallest slices and their peaks in GiB (docs/recipes.md): h100:1 (22.1), v5e:2x2 (7.7), v4:2x2x1
(7.7).
"""

from typing import NamedTuple

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick


class Recipe(NamedTuple):
    """The settings that depend on the data set, besides its splits."""

    dataset: str
    steps: int
    warmup_steps: int
    learning_rate: float


RECIPES = {
    "pets": Recipe("oxford_iiit_pet", steps=500, warmup_steps=100, learning_rate=0.003),
    "flowers": Recipe("oxford_flowers102", steps=500, warmup_steps=100, learning_rate=0.003),
    "cifar10": Recipe("cifar10", steps=10_000, warmup_steps=500, learning_rate=0.003),
    "cifar100": Recipe("cifar100", steps=10_000, warmup_steps=500, learning_rate=0.01),
    "imagenet": Recipe("imagenet2012", steps=20_000, warmup_steps=500, learning_rate=0.03),
}


def get_config(recipe: str = "pets") -> ml_collections.ConfigDict:
    """Return the config for a data set."""
    chosen = pick(RECIPES, recipe, "--config=configs/transfer.py:DATA")
    c = config.to_config_dict(config.Config())
    c.batch_size = 512
    c.total_steps = chosen.steps
    c.model = models.spec("vit_b32", num_classes=0, dtype="bfloat16")
    c.data.name = chosen.dataset
    c.data.test_split = "test"
    if recipe == "pets":
        c.data.train_split = "train[:90%]"
        c.data.val_split = "train[90%:]"
    elif recipe == "flowers":
        c.data.train_split = "train"
        c.data.val_split = "validation"
    elif recipe == "imagenet":
        c.data.train_split = "train[:99%]"
        c.data.val_split = "train[99%:]"
        c.data.test_split = "validation"
    else:  # CIFAR
        c.data.train_split = "train[:98%]"
        c.data.val_split = "train[98%:]"
    c.data.image_size = (384, 384)
    c.data.crop = "random" if recipe in ("cifar10", "cifar100") else "inception"
    c.data.crop_area = (0.05, 1.0)
    c.data.crop_fraction = 384 / 448
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
