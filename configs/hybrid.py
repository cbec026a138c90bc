"""The hybrid R50+B/16 fine-tuned from ImageNet-21k (Dosovitskiy et al. 2021, section 3.1, table 4).

  python -m vit_jax.train --config=configs/hybrid.py:cifar10 --config.init_from=weights/r50_b16

The authors report top-1 (README of vision_transformer, without dropout): CIFAR-10 98.72, CIFAR-100
90.88, ImageNet 83.72 after 9.9 hours on A100s. Nobody has run this recipe with this code yet.

Cost: batch size 512 at 384 pixels; 20,000 steps in 9.9 hours are 290 images/s. Parameters,
gradients and momentum take 10 bytes per parameter: 1 GB, plus activations. On one TPU v5e with 16
GB, add --config.optim.accum_steps=8, which needs 14.3 GiB.

Smallest slices and their peaks in GiB (docs/recipes.md): h100:4 (45.7), v5e:2x4 (14.1), v4:2x2x1
(28.3).
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

STEPS = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 20_000}


def get_config(data: str = "cifar10") -> ml_collections.ConfigDict:
    """Return the config for a data set."""
    steps = pick(STEPS, data, "--config=configs/hybrid.py:DATA")
    c = config.to_config_dict(config.Config())
    c.batch_size = 512
    c.total_steps = steps
    c.model = models.spec("vit_r50_b16", num_classes=0, dtype="bfloat16")
    if data == "imagenet":
        c.data.name = "imagenet2012"
        c.data.train_split = "train[:99%]"
        c.data.val_split = "train[99%:]"
        c.data.test_split = "validation"
    else:
        c.data.name = data
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
    c.optim.learning_rate = 0.03
    c.optim.warmup_steps = 500
    c.optim.clip_norm = 1.0
    c.optim.moment_dtype = "bfloat16"
    c.eval.every_steps = 1000
    c.checkpoint.every_steps = 1000
    return c
