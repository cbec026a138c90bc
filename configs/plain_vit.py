"""Better plain ViT baselines for ImageNet-1k (Beyer et al. 2022, table 1).

  python -m vit_jax.train --config=configs/plain_vit.py:s_90     # s or b; 90, 150 or 300 epochs

As big_vision's `vit_s16_i1k.py`. Expected top-1, theirs: S/16 76.5 after 90 epochs in 6 to 7 hours
on a TPU v3-8, about 80 after 300 in less than a day. B/16 is in the paper, not in their
repository. Nobody has run it with this code yet.

Effective batch 1,024. 90 epochs are 115 million images: 4,900 a second for 6.5 hours. Parameters,
gradients and moments take 14 bytes a parameter (the first moment is bfloat16): 0.3 and 1.2 GB.

Theirs differs: RandAugment's contrast is TensorFlow's, images are resized without antialiasing,
and mixup draws from Beta(0.2, 0.2) a weight that is at least a half.
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick
from vit_jax.training import optim

RECIPES = {f"{size}_{epochs}": (size, epochs) for size in "sb" for epochs in (90, 150, 300)}


def get_config(recipe: str = "s_90") -> ml_collections.ConfigDict:
    """Returns the recipe of a size and a number of epochs."""
    size, epochs = pick(RECIPES, recipe, "--config=configs/plain_vit.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size, c.total_epochs = 1024, float(epochs)
    width = models.spec(f"vit_{size}16").width
    fields = {"pool": "gap", "posemb": "sincos2d", "representation_size": width}
    c.model = models.spec(f"vit_{size}16", num_classes=0, dtype="bfloat16", **fields)
    c.data.name, c.data.train_split = "imagenet2012", "train[:99%]"
    c.data.val_split, c.data.test_split = "train[99%:]", "validation"
    c.data.crop, c.data.crop_area, c.data.flip = "inception", (0.05, 1.0), True
    c.data.interpolation, c.data.crop_fraction = "bilinear", 0.875
    c.data.augment = "randaug(2,10)"
    c.mix.mixup = 0.2
    c.optim.learning_rate, c.optim.moment_dtype = 1e-3, "bfloat16"
    c.optim.weight_decay = optim.weight_decay(1e-4, "big_vision", c.optim.learning_rate)
    c.optim.warmup_steps, c.optim.clip_norm = 10_000, 1.0
    c.eval.every_steps = c.checkpoint.every_steps = 5000
    return c
