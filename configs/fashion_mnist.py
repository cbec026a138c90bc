"""Small ViTs from scratch on Fashion-MNIST (Xiao et al. 2017): 28x28 grey images, 10 classes.

  pip install 'vit_jax[tfds]'
  python -m vit_jax.prepare --dataset=fashion_mnist
  python -m vit_jax.train --config=configs/fashion_mnist.py:plain     # or mixed, or hybrid

Measured with this code: test top-1 on 10,000 images (seed 0, last step; settings chosen on the
validation split) is 88.69 % for plain after 8 minutes on 2 CPU cores, 87.51 % for mixed after 13
and 92.78 % for hybrid after 39. The last two used huge pages; docs/results.md describes the setup
and the effect of each ingredient.

Smallest slices and their peaks in GiB (docs/recipes.md): plain: h100:1 (0.05), v5e:1x1 (0.01),
v4:2x2x1 (0.01); mixed: h100:1 (0.05), v5e:1x1 (0.02), v4:2x2x1 (0.02); hybrid: h100:1 (0.2),
v5e:1x1 (0.02), v4:2x2x1 (0.01).
"""

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick

EPOCHS = {"plain": 10.0, "mixed": 10.0, "hybrid": 20.0}


def get_config(recipe: str = "plain") -> ml_collections.ConfigDict:
    """Return the config of `plain`, `mixed` or `hybrid`."""
    epochs = pick(EPOCHS, recipe, "--config=configs/fashion_mnist.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 128
    c.total_epochs = epochs
    c.model = models.spec("vit_mu4", num_classes=0, width=96, num_heads=4, mlp_dim=192)
    c.model.depth = 4
    c.model.stem.patch = (7, 7)
    c.data.name = "fashion_mnist"
    c.data.train_split = "train[:95%]"
    c.data.val_split = "train[95%:]"
    c.data.test_split = "test"
    c.data.image_size = (28, 28)
    c.data.channels = 1
    c.data.mean = (0.286,)
    c.data.std = (0.353,)
    c.data.flip = True
    c.data.threads = 2
    c.optim.learning_rate = 2e-3
    c.optim.warmup_steps = 200
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.eval.every_steps = 1000
    c.eval.batch_size = 500
    c.checkpoint.every_steps = 1000
    if recipe != "plain":
        c.objective.label_smoothing = 0.1
        c.data.erasing = 0.25
        c.optim.ema_decay = 0.999
        c.optim.ema_warmup = True
    if recipe == "mixed":
        c.data.augment = "rand-m5-mstd0.5-inc1"
        c.mix.mixup = 0.2
        c.mix.cutmix = 1.0
        c.mix.probability = 0.5
    if recipe == "hybrid":
        c.model.depth = 3
        c.model.stem = "resnet"
        c.model.stem.patch = (1, 1)
        c.model.stem.layers = (1,)
        c.model.stem.width_factor = 0.5
        c.model.attention = "linformer"
        c.model.attention.landmarks = 16
        c.model.mlp.activation = "gelu_tanh"
        c.model.pool = "gap"
        c.optim.name = "muon"
        c.optim.learning_rate = 1e-2
    return c
