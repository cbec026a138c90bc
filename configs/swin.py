"""Swin on ImageNet-1k from scratch (Liu et al. 2021, table 1; their `config.py`).

  python -m vit_jax.train --config=configs/swin.py:t         # t, s or b

The paper reports top-1 T 81.2, S 83.2, B 83.5; inference at 755, 437 and 278 images/s on a V100.
The training time is not published. Nobody has run this recipe with this code yet.

Cost: batch size 1,024 for 300 epochs, which is 384 million images; a run of one day needs 4,450
images/s. Parameters, gradients and moments take 16 bytes per parameter: T 0.45 GB, S 0.8 GB, B 1.4
GB, plus activations.

Difference: the authors set a colour jitter of 0.4, but timm ignores it together with RandAugment.
This recipe has none.

Smallest slices and their peaks in GiB (docs/recipes.md): t: h100:1 (52.7), v5e:2x2 (14.4), v4:2x2x1
(24.3); s: h100:1 (56.1), v5e:2x2 (14.3), v4:2x2x1 (28.1); b: h100:1 (55.8), v5e:2x4 (15.1),
v4:2x2x1 (30.0).
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

DROP_PATH = {"t": 0.2, "s": 0.3, "b": 0.5}


def get_config(size: str = "t") -> ml_collections.ConfigDict:
    """Return the config for a model size."""
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
    c.optim.learning_rate = 1e-3  # 5e-4 per 512 images of the batch
    c.optim.warmup_epochs = 20.0
    c.optim.warmup_learning_rate = 1e-6  # 5e-7 per 512 images
    c.optim.end_learning_rate = 1e-5
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 5.0
    c.checkpoint.every_steps = 1251
    return c
