"""Transfer of AugReg weights to small data sets, as big_vision does (its `configs/transfer.py`).

  python -m vit_jax.prepare --dataset=oxford_iiit_pet
  python -m vit_jax.train --config=configs/transfer.py:pets --config.init_from=weights/b32

Expected top-1 of B/32, theirs, mean and range of five: Pets 93.78 [93.62, 94.00], Flowers 99.43
[99.42, 99.45], CIFAR-10 98.55 [98.46, 98.60], CIFAR-100 91.35 [91.09, 91.62], ImageNet 83.27
[83.22, 83.33]. Nobody has run it with this code yet.

Effective batch 512 at 384 pixels, 500 steps for Pets and Flowers: 256,000 images, 430 a second for
ten minutes. Parameters, gradients and momentum take 10 bytes a parameter, 0.9 GB; activations
besides. `--config.model.name` takes other sizes.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

# Data set, its splits, how training images are cropped, rate, steps, warm-up.
RECIPES = {
    "pets": ("oxford_iiit_pet", "train[:90%] train[90%:] test", "inception", 0.003, 500, 100),
    "flowers": ("oxford_flowers102", "train validation test", "inception", 0.003, 500, 100),
    "cifar10": ("cifar10", "train[:98%] train[98%:] test", "random", 0.003, 10_000, 500),
    "cifar100": ("cifar100", "train[:98%] train[98%:] test", "random", 0.01, 10_000, 500),
    "imagenet": (
        *("imagenet2012", "train[:99%] train[99%:] validation", "inception"),
        *(0.03, 20_000, 500),
    ),
}


def get_config(recipe: str = "pets") -> ml_collections.ConfigDict:
    """Returns the recipe of a data set."""
    path = "--config=configs/transfer.py:DATA"
    name, splits, crop, rate, steps, warmup = pick(RECIPES, recipe, path)
    c = config.to_config_dict(config.Config())
    c.batch_size, c.total_steps = 512, steps
    c.model = models.spec("vit_b32", num_classes=0, dtype="bfloat16")
    c.data.name = name
    c.data.train_split, c.data.val_split, c.data.test_split = splits.split()
    c.data.image_size, c.data.crop_fraction = (384, 384), 384 / 448
    c.data.crop, c.data.crop_area, c.data.flip = crop, (0.05, 1.0), True
    c.data.interpolation = "bilinear"
    c.optim.name, c.optim.learning_rate, c.optim.moment_dtype = "sgd", rate, "bfloat16"
    c.optim.warmup_steps, c.optim.clip_norm = warmup, 1.0
    c.eval.every_steps = c.checkpoint.every_steps = max(100, steps // 10)
    return c
