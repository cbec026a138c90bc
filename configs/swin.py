"""Swin on ImageNet-1k from scratch (Liu et al. 2021, table 1; their `config.py`).

  python -m vit_jax.train --config=configs/swin.py:t         # t, s or b

Expected top-1, theirs: T 81.2, S 83.2, B 83.5; 755, 437 and 278 images/s on a V100 (inference);
hours not published. Nobody has run it with this code yet.

Effective batch 1,024 for 300 epochs: 384 million images, 4,450 a second for a day. Parameters,
gradients and moments take 16 bytes per parameter: 0.45, 0.8 and 1.4 GB; activations come on top.

Theirs differs: they set a colour jitter of 0.4, which timm drops when RandAugment is on.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

DROP_PATH = {"t": 0.2, "s": 0.3, "b": 0.5}


def get_config(size: str = "t") -> ml_collections.ConfigDict:
    """Return the recipe of a size."""
    drop_path = pick(DROP_PATH, size, "--config=configs/swin.py:SIZE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 1024
    c.total_epochs = 300.0
    c.objective.label_smoothing = 0.1
    c.model = models.spec(f"swin_{size}_w7", num_classes=0, dtype="bfloat16")
    c.model.block.drop_path = drop_path
    c.data.name = "imagenet2012"
    c.data.val_split = ""
    c.data.test_split = "validation"
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.crop = "inception"
    c.data.crop_fraction = 0.875
    c.data.flip = True
    c.data.augment = "rand-m9-mstd0.5-inc1"
    c.data.erasing = 0.25
    c.mix.mixup = 0.8
    c.mix.cutmix = 1.0
    c.optim.learning_rate = 1e-3  # 5e-4 for each 512 images
    c.optim.warmup_epochs = 20.0
    c.optim.warmup_learning_rate = 1e-6  # 5e-7 for each 512
    c.optim.end_learning_rate = 1e-5
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 5.0
    c.checkpoint.every_steps = 1251
    return c
