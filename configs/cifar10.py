"""A small ViT from scratch on CIFAR-10 (Krizhevsky 2009): 32x32 colour, 10 classes.

  pip install 'vit_jax[tfds]'
  python -m vit_jax.prepare --dataset=cifar10
  python -m vit_jax.train --config=configs/cifar10.py

What is to make it work without pretraining: a convolutional stem (Xiao et al. 2021), RandAugment,
mixup and cutmix, stochastic depth and an average of the weights. Nobody has run it with this code
yet, and no figure is promised.

Effective batch 256: 9.8 million images, 2,700 a second for an hour. Parameters, gradients, moments
and average take 20 bytes a parameter, 70 MB; activations come besides.
"""

import ml_collections

from vit_jax import config, models


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe."""
    c = config.to_config_dict(config.Config())
    c.batch_size, c.total_epochs = 256, 200.0
    c.label_smoothing = 0.1
    sizes = {"width": 256, "depth": 6, "num_heads": 4, "mlp_dim": 512}
    parts = {"stem": "conv", "pool": "gap", "drop_path": 0.1, "dtype": "bfloat16"}
    c.model = models.spec("vit_mu4", num_classes=0, **sizes, **parts)
    c.data.name, c.data.train_split = "cifar10", "train[:98%]"
    c.data.val_split, c.data.test_split = "train[98%:]", "test"
    c.data.image_size = (32, 32)
    c.data.mean, c.data.std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    c.data.crop, c.data.flip = "simple", True
    c.data.augment = "rand-m9-mstd0.5-inc1"
    c.data.erasing = 0.25
    c.mix.mixup, c.mix.cutmix = 0.8, 1.0
    c.optim.learning_rate, c.optim.weight_decay = 1e-3, 0.05
    c.optim.warmup_epochs, c.optim.end_learning_rate = 5.0, 1e-5
    c.optim.clip_norm = 1.0
    c.optim.ema_decay, c.optim.ema_warmup = 0.9995, True
    c.eval.every_steps = c.checkpoint.every_steps = 1915
    return c
