"""A small ViT from scratch on CIFAR-10 (Krizhevsky 2009): 32x32 colour images, 10 classes.

  pip install 'vit_jax[tfds]'
  python -m vit_jax.prepare --dataset=cifar10
  python -m vit_jax.train --config=configs/cifar10.py

To train without pretraining it combines a convolutional stem (Xiao et al. 2021), RandAugment, mixup
and cutmix, stochastic depth and an EMA of the weights. It is our own recipe, not that of a paper.
Nobody has run it with this code yet, so no accuracy is given.

Cost: batch size 256, 9.8 million images; a run of one hour needs 2,700 images/s. Parameters,
gradients, moments and EMA take 20 bytes per parameter: 70 MB, plus activations.

Smallest slices and their peaks in GiB (docs/recipes.md): h100:1 (0.7), v5e:1x1 (0.8), v4:2x2x1
(0.2).
"""

import ml_collections

from vit_jax import config, models


def get_config() -> ml_collections.ConfigDict:
    """Return the config."""
    c = config.to_config_dict(config.Config())
    c.batch_size = 256
    c.total_epochs = 200.0
    c.objective.label_smoothing = 0.1
    c.model = models.spec(
        "vit_mu4",
        num_classes=0,
        width=256,
        depth=6,
        num_heads=4,
        mlp_dim=512,
        stem="conv",
        pool="gap",
        block={"drop_path": 0.1},
        dtype="bfloat16",
    )
    c.data.name = "cifar10"
    c.data.train_split = "train[:98%]"
    c.data.val_split = "train[98%:]"
    c.data.test_split = "test"
    c.data.image_size = (32, 32)
    c.data.mean = (0.491, 0.482, 0.447)
    c.data.std = (0.247, 0.243, 0.262)
    c.data.crop = "simple"
    c.data.flip = True
    c.data.augment = "rand-m9-mstd0.5-inc1"
    c.data.erasing = 0.25
    c.mix.mixup = 0.8
    c.mix.cutmix = 1.0
    c.optim.learning_rate = 1e-3
    c.optim.warmup_epochs = 5.0
    c.optim.end_learning_rate = 1e-5
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.optim.ema_decay = 0.9995
    c.optim.ema_warmup = True
    c.eval.every_steps = 1915
    c.checkpoint.every_steps = 1915
    return c
