"""DeiT on ImageNet-1k from scratch (Touvron et al. 2021, tables 5 and 9; their `main.py`).

  python -m vit_jax.train --config=configs/deit.py:s          # ti, s or b
  python -m vit_jax.train --config=configs/deit.py:s_distilled --config.objective.teacher=DIR
  python -m vit_jax.train --config=configs/deit.py:b_384 --config.init_from=runs/deit_b

The paper reports top-1 at 224 pixels: Ti 72.2, S 79.9, B 81.8 (82.9 at 384 pixels); distilled from
a RegNetY-16GF: Ti 74.5, S 81.2, B 83.4. The JAX code deit3-jax reports Ti 73.1, S 79.68, B 81.46
after 2 h 40, 2 h 43 and 4 h 40 on a TPU v4-64. Nobody has run this recipe with this code yet.

Cost: batch size 1,024 for 300 epochs, which is 384 million images; a run of one day needs 4,450
images/s. Parameters, gradients and moments take 16 bytes per parameter: Ti 0.09 GB, S 0.35 GB, B
1.4 GB, plus activations.

Differences: the authors change the learning rate once per epoch, not per step. They set a colour
jitter of 0.3, but timm ignores it together with RandAugment, so that this recipe has none.

Smallest slices and their peaks in GiB (docs/recipes.md): ti: h100:1 (14.7), v5e:1x1 (14.3),
v4:2x2x1 (4.5); s: h100:1 (29.1), v5e:2x2 (11.2), v4:2x2x1 (8.9); b: h100:1 (35.4), v5e:2x2 (11.5),
v4:2x2x1 (10.8); b_384: h100:1 (51.2), v5e:2x2 (14.8), v4:2x2x1 (14.5); ti_distilled: h100:1 (17.6),
v5e:1x1 (14.5), v4:2x2x1 (4.9); s_distilled: h100:1 (31.8), v5e:2x2 (11.3), v4:2x2x1 (9.0);
b_distilled: h100:1 (36.3), v5e:2x2 (12.2), v4:2x2x1 (11.1).
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

MODELS = {
    "ti": "deit_ti16",
    "s": "deit_s16",
    "b": "deit_b16",
    "b_384": "deit_b16",
    "ti_distilled": "deit_ti16_distilled",
    "s_distilled": "deit_s16_distilled",
    "b_distilled": "deit_b16_distilled",
}


def get_config(size: str = "s") -> ml_collections.ConfigDict:
    """Return the config for a model size."""
    name = pick(MODELS, size, "--config=configs/deit.py:SIZE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 1024
    c.total_epochs = 300.0
    if size.endswith("_distilled"):
        c.objective = "distillation"
    c.objective.label_smoothing = 0.1
    c.model = models.spec(name, num_classes=0, dtype="bfloat16")
    c.model.block.drop_path = 0.1
    if name.startswith("deit_b16"):
        c.model.remat = "linear"  # so that 256 images fit a TPU v5e of 16 GB; 1.4 % more FLOPs
    c.data.name = "imagenet2012"
    c.data.val_split = ""
    c.data.test_split = "validation"
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.crop = "inception"
    c.data.crop_fraction = 0.875
    c.data.flip = True
    c.data.augment = "rand-m9-mstd0.5-inc1"
    c.data.repeats = 3
    c.data.erasing = 0.25
    c.mix.mixup = 0.8
    c.mix.cutmix = 1.0
    c.optim.learning_rate = 1e-3  # 5e-4 per 512 images of the batch
    c.optim.warmup_epochs = 5.0
    c.optim.warmup_learning_rate = 1e-6
    c.optim.end_learning_rate = 1e-5
    c.optim.weight_decay = 0.05
    c.checkpoint.every_steps = 1251
    if size == "b_384":
        c.batch_size = 512
        c.total_epochs = 30.0
        c.data.image_size = (384, 384)
        c.data.crop_fraction = 1.0
        c.optim.schedule = "constant"
        c.optim.learning_rate = 5e-6
        c.optim.warmup_epochs = 0.0
        c.optim.weight_decay = 1e-8
    return c
