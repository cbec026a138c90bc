"""Better plain ViT baselines for ImageNet-1k (Beyer et al. 2022, table 1).

  python -m vit_jax.train --config=configs/plain_vit.py:s_90     # s or b; 90, 150 or 300 epochs

As big_vision's `vit_s16_i1k.py`. Expected top-1, theirs: S/16 76.5 after 90 epochs in 6 to 7 hours
on a TPU v3-8, about 80 after 300 in less than a day. B/16 is in the paper, not in their
repository. Nobody has run it with this code yet.

Effective batch 1,024. 90 epochs are 115 million images: 4,900 a second for 6.5 hours. Parameters,
gradients and moments take 14 bytes per parameter (the first moment is bfloat16): 0.3 and 1.2 GB.

Theirs differs: RandAugment's contrast is TensorFlow's, images are resized without antialiasing,
and mixup draws from Beta(0.2, 0.2) a weight that is at least a half.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick
from vit_jax.training import optim

# Size and epochs.
RECIPES = {f"{size}_{epochs}": (size, epochs) for size in ("s", "b") for epochs in (90, 150, 300)}


def get_config(recipe: str = "s_90") -> ml_collections.ConfigDict:
    """Return the recipe of a size and a number of epochs."""
    size, epochs = pick(RECIPES, recipe, "--config=configs/plain_vit.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 1024
    c.total_epochs = float(epochs)
    c.model = models.spec(f"vit_{size}16", num_classes=0, dtype="bfloat16")
    c.model.pool = "gap"
    c.model.posemb = "sincos2d"
    c.model.representation_size = c.model.width
    c.data.name = "imagenet2012"
    c.data.train_split = "train[:99%]"
    c.data.val_split = "train[99%:]"
    c.data.test_split = "validation"
    c.data.crop = "inception"
    c.data.crop_area = (0.05, 1.0)
    c.data.crop_fraction = 0.875
    c.data.interpolation = "bilinear"
    c.data.flip = True
    c.data.augment = "randaug(2,10)"
    c.mix.mixup = 0.2
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 10_000
    c.optim.weight_decay = optim.weight_decay(1e-4, "big_vision", c.optim.learning_rate)
    c.optim.clip_norm = 1.0
    c.optim.moment_dtype = "bfloat16"
    c.eval.every_steps = 5000
    c.checkpoint.every_steps = 5000
    return c
