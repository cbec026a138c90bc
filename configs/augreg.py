"""AugReg on ImageNet-1k from scratch, per size (Steiner et al. 2021; big_vision's `vit_i1k.py`).

  python -m vit_jax.train --config=configs/augreg.py:b16      # ti16, s32, s16, b32, b16 or l16

Expected top-1 of Google's weights at 224, as timm evaluates them: S/16 78.84, B/32 74.91, B/16
79.15; trained on TPUs, hours not published. Nobody has run it with this code yet.

Effective batch 4,096 for 300 epochs: 384 million images, 4,450 a second for a day. Parameters,
gradients and moments take 14 bytes a parameter (the first moment is bfloat16): B/16 1.2 GB, L/16
4.3 GB; activations come besides.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick
from vit_jax.training import optim

# The best augmentation of each size: RandAugment's layers and magnitude, and mixup's alpha.
LIGHT1, MEDIUM1, MEDIUM2 = ("randaug(2,0)", 0.0), ("randaug(2,15)", 0.2), ("randaug(2,15)", 0.5)
LEVELS = {
    **{"ti16": LIGHT1, "s32": MEDIUM1},
    **{"s16": MEDIUM2, "b32": MEDIUM2, "b16": MEDIUM2, "l16": MEDIUM2},
}


def get_config(size: str = "b16") -> ml_collections.ConfigDict:
    """Returns the recipe of a size."""
    augment, mixup = pick(LEVELS, size, "--config=configs/augreg.py:SIZE")
    c = config.to_config_dict(config.Config())
    c.batch_size, c.total_epochs = 4096, 300.0
    c.loss = "sigmoid"
    width = models.spec(f"vit_{size}").width
    fields = {"representation_size": width, "head_bias": -6.9}
    c.model = models.spec(f"vit_{size}", num_classes=0, dtype="bfloat16", **fields)
    c.data.name, c.data.train_split = "imagenet2012", "train[:99%]"
    c.data.val_split, c.data.test_split = "train[99%:]", "validation"
    c.data.crop, c.data.crop_area, c.data.flip = "inception", (0.05, 1.0), True
    c.data.interpolation, c.data.crop_fraction = "bilinear", 0.875
    c.data.augment, c.mix.mixup = augment, mixup
    c.optim.learning_rate, c.optim.moment_dtype = 1e-3, "bfloat16"
    c.optim.weight_decay = optim.weight_decay(1e-4, "big_vision", c.optim.learning_rate)
    c.optim.warmup_steps, c.optim.clip_norm = 10_000, 1.0
    c.eval.every_steps = c.checkpoint.every_steps = 2000
    return c
