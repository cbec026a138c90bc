"""AugReg on ImageNet-1k from scratch, one recipe per size (Steiner et al. 2021).

  python -m vit_jax.train --config=configs/augreg.py:b16      # ti16, s32, s16, b32, b16 or l16

It follows big_vision's `vit_i1k.py`. timm evaluates the authors' weights at 224 pixels with top-1
S/16 78.84, B/32 74.91, B/16 79.15. They were trained on TPUs; the time is not published. Nobody has
run this recipe with this code yet.

Cost: batch size 4,096 for 300 epochs, which is 384 million images; a run of one day needs 4,450
images/s. Parameters, gradients and moments take 14 bytes per parameter (the first moment is
bfloat16): B/16 1.2 GB, L/16 4.3 GB, plus activations.

Smallest slices and their peaks in GiB (docs/recipes.md): ti16: h100:1 (55.0), v5e:2x2 (14.3),
v4:2x2x1 (19.3); s32: h100:1 (30.4), v5e:2x2 (11.6), v4:2x2x1 (11.4); s16: h100:1 (54.1), v5e:2x2
(14.5), v4:2x2x1 (28.0); b32: h100:1 (54.8), v5e:2x2 (14.5), v4:2x2x1 (23.1); b16: h100:8 (36.5),
v5e:4x4 (14.4), v4:2x2x2 (28.4); l16: h100:2x8 (49.3), v5e:4x8 (14.3), v4:2x2x4 (28.8).
"""

from typing import NamedTuple

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick
from vit_jax.training import optim


class Level(NamedTuple):
    """Amount of augmentation: RandAugment with (layers, magnitude), and alpha of mixup."""

    augment: str
    mixup: float


LIGHT1 = Level(augment="randaug(2,0)", mixup=0.0)
MEDIUM1 = Level(augment="randaug(2,15)", mixup=0.2)
MEDIUM2 = Level(augment="randaug(2,15)", mixup=0.5)

# The best level for each size.
LEVELS = {
    "ti16": LIGHT1,
    "s32": MEDIUM1,
    "s16": MEDIUM2,
    "b32": MEDIUM2,
    "b16": MEDIUM2,
    "l16": MEDIUM2,
}


def get_config(size: str = "b16") -> ml_collections.ConfigDict:
    """Return the config for a model size."""
    level = pick(LEVELS, size, "--config=configs/augreg.py:SIZE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 4096
    c.total_epochs = 300.0
    c.objective.loss = "sigmoid"
    c.model = models.spec(f"vit_{size}", num_classes=0, dtype="bfloat16")
    c.model.representation_size = c.model.width
    c.model.head_bias = -6.9
    c.data.name = "imagenet2012"
    c.data.train_split = "train[:99%]"
    c.data.val_split = "train[99%:]"
    c.data.test_split = "validation"
    c.data.crop = "inception"
    c.data.crop_area = (0.05, 1.0)
    c.data.crop_fraction = 0.875
    c.data.interpolation = "bilinear"
    c.data.flip = True
    c.data.augment = level.augment
    c.mix.mixup = level.mixup
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 10_000
    c.optim.weight_decay = optim.weight_decay(1e-4, "big_vision", c.optim.learning_rate)
    c.optim.clip_norm = 1.0
    c.optim.moment_dtype = "bfloat16"
    c.eval.every_steps = 2000
    c.checkpoint.every_steps = 2000
    return c
