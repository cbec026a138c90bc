"""DeiT on ImageNet-1k from scratch (Touvron et al. 2021, tables 5 and 9; their `main.py`).

  python -m vit_jax.train --config=configs/deit.py:s          # ti, s or b
  python -m vit_jax.train --config=configs/deit.py:s_distilled --config.distill.teacher=DIR
  python -m vit_jax.train --config=configs/deit.py:b_384 --config.init_from=runs/deit_b

Expected top-1, theirs at 224: Ti 72.2, S 79.9, B 81.8 (B at 384: 82.9); distilled from a
RegNetY-16GF Ti 74.5, S 81.2, B 83.4. deit3-jax, also JAX: Ti 73.1, S 79.68, B 81.46 in 2 h 40,
2 h 43 and 4 h 40 on a TPU v4-64. Nobody has run it with this code yet.

Effective batch 1,024 for 300 epochs: 384 million images, 4,450 a second for a day. Parameters,
gradients and moments take 16 bytes a parameter: 0.09, 0.35 and 1.4 GB; activations come besides.

Theirs differs: they have no decay of the rate within an epoch, the last of an epoch's batches
counts, and their colour jitter of 0.3 has no effect, for timm leaves it out beside RandAugment.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

SIZES = {"ti": "deit_ti16", "s": "deit_s16", "b": "deit_b16", "b_384": "deit_b16"} | {
    f"{size}_distilled": f"deit_{size}16_distilled" for size in ("ti", "s", "b")
}


def get_config(size: str = "s") -> ml_collections.ConfigDict:
    """Returns the recipe of a size."""
    name = pick(SIZES, size, "--config=configs/deit.py:SIZE")
    c = config.to_config_dict(config.Config())
    c.batch_size, c.total_epochs = 1024, 300.0
    c.label_smoothing = 0.1
    c.model = models.spec(name, num_classes=0, drop_path=0.1, dtype="bfloat16")
    c.data.name, c.data.val_split, c.data.test_split = "imagenet2012", "", "validation"
    c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    c.data.crop, c.data.flip, c.data.crop_fraction = "inception", True, 0.875
    c.data.augment = "rand-m9-mstd0.5-inc1"
    c.data.repeats = 3
    c.data.erasing = 0.25
    c.mix.mixup, c.mix.cutmix = 0.8, 1.0
    c.optim.learning_rate, c.optim.weight_decay = 1e-3, 0.05  # 5e-4 for each 512 images
    c.optim.warmup_epochs, c.optim.warmup_learning_rate = 5.0, 1e-6
    c.optim.end_learning_rate = 1e-5
    c.checkpoint.every_steps = 1251
    if size == "b_384":
        c.batch_size, c.total_epochs = 512, 30.0
        c.data.image_size, c.data.crop_fraction = (384, 384), 1.0
        c.optim.schedule, c.optim.learning_rate, c.optim.weight_decay = "constant", 5e-6, 1e-8
        c.optim.warmup_epochs = 0.0
    return c
