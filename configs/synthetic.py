"""ViT-S/16 on generated 224-pixel images: a dry run of an ImageNet-sized job, and its throughput.

The images are noise whose brightness depends on the class, so the accuracy means nothing.

python -m vit_jax.train --config=configs/synthetic.py
python -m vit_jax.train --config=configs/synthetic.py --config.model.name=vit_b16

Smallest slices and their peaks in GiB (docs/recipes.md): h100:1 (2.1), v5e:1x1 (2.3), v4:2x2x1
(0.8).
"""

import ml_collections

from vit_jax import config, models


def get_config() -> ml_collections.ConfigDict:
    """Return the config."""
    c = config.to_config_dict(config.Config())
    c.batch_size = 64
    c.total_steps = 100
    c.model = models.spec("vit_s16", num_classes=0, dtype="bfloat16")
    c.data.name = "synthetic"
    c.data.synthetic.num_classes = 1000
    c.optim.warmup_steps = 10
    c.optim.weight_decay = 0.1
    c.optim.clip_norm = 1.0
    return c
