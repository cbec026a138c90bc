"""Better plain ViT baselines for ImageNet-1k (Beyer et al. 2022, table 1).

  python -m vit_jax.train --config=configs/plain_vit.py:s_90     # s or b; 90, 150 or 300 epochs

It follows big_vision's `vit_s16_i1k.py`. The authors report top-1 S/16 76.5 after 90 epochs, in 6
to 7 hours on a TPU v3-8, and about 80 after 300 epochs, in less than a day. B/16 is in the paper,
but not in the authors' repository. Nobody has run this recipe with this code yet.

Cost: batch size 1,024; 90 epochs are 115 million images, so that a run of 6.5 hours needs 4,900
images/s. Parameters, gradients and moments take 14 bytes per parameter (the first moment is
bfloat16): S/16 0.3 GB, B/16 1.2 GB, plus activations.

Differences: big_vision uses TensorFlow's contrast in RandAugment, resizes without antialiasing, and
mixes with a weight from Beta(0.2, 0.2) that is at least 0.5.

Smallest slices and their peaks in GiB (docs/recipes.md): s_90, s_150, s_300: h100:1 (28.5), v5e:2x2
(10.9), v4:2x2x1 (8.8); b_90, b_150, b_300: h100:1 (54.7), v5e:2x2 (14.2), v4:2x2x1 (17.7).
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick
from vit_jax.training import optim

# (size, epochs) of each recipe.
RECIPES = {f"{size}_{epochs}": (size, epochs) for size in ("s", "b") for epochs in (90, 150, 300)}


def get_config(recipe: str = "s_90") -> ml_collections.ConfigDict:
    """Return the config for a size and a number of epochs."""
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
