"""The hybrid R50+B/16 tuned from ImageNet-21k (Dosovitskiy et al. 2021, section 3.1 and table 4).

  python -m vit_jax.train --config=configs/hybrid.py:cifar10 --config.init_from=weights/r50_b16

Expected top-1 (README of vision_transformer, without dropout): CIFAR-10 98.72, CIFAR-100 90.88,
ImageNet 83.72 in 9.9 hours on A100s. Nobody has run it with this code yet.

Effective batch 512 at 384 pixels; 20,000 steps in 9.9 hours are 290 images a second. Parameters,
gradients and momentum take 10 bytes a parameter, 1 GB; activations come besides. With one
accelerator of 16 GB, take --config.optim.accum_steps=8.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

# Train, held out, test; steps.
SPLITS = {
    "cifar10": ("cifar10", "98%", "test", 10_000),
    "cifar100": ("cifar100", "98%", "test", 10_000),
    "imagenet": ("imagenet2012", "99%", "validation", 20_000),
}


def get_config(data: str = "cifar10") -> ml_collections.ConfigDict:
    """Returns the recipe of a data set."""
    name, share, test, steps = pick(SPLITS, data, "--config=configs/hybrid.py:DATA")
    c = config.to_config_dict(config.Config())
    c.batch_size, c.total_steps = 512, steps
    c.model = models.spec("vit_r50_b16", num_classes=0, dtype="bfloat16")
    c.data.name, c.data.train_split = name, f"train[:{share}]"
    c.data.val_split, c.data.test_split = f"train[{share}:]", test
    c.data.image_size = (384, 384)
    c.data.crop, c.data.crop_area, c.data.flip = "inception", (0.05, 1.0), True
    c.data.interpolation, c.data.fit = "bilinear", "squash"
    c.optim.name, c.optim.learning_rate, c.optim.moment_dtype = "sgd", 0.03, "bfloat16"
    c.optim.warmup_steps, c.optim.clip_norm = 500, 1.0
    c.eval.every_steps = c.checkpoint.every_steps = 1000
    return c
