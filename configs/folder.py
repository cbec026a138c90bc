"""Train a ViT-Ti/16 from scratch on a folder of images, with a folder per class.

PHOTOS has a folder per class, PHOTOS/CLASS/*, or a folder per split, PHOTOS/train/CLASS/* and
PHOTOS/val/CLASS/*. Nobody has measured this recipe. Training from scratch needs thousands of images
per class; with fewer, fine-tune pretrained weights (`configs/finetune_folder.py`).

python -m vit_jax.train --config=configs/folder.py --config.data.root=PHOTOS
python -m vit_jax.predict --workdir=runs/folder IMAGE_OR_FOLDER...

Smallest slices and their peaks in GiB (docs/recipes.md): h100:1 (2.5), v5e:1x1 (1.6), v4:2x2x1
(0.5).
"""

import ml_collections

from vit_jax import config, models


def get_config() -> ml_collections.ConfigDict:
    """Return the recipe."""
    c = config.to_config_dict(config.Config())
    c.batch_size = 64
    c.total_epochs = 30.0
    c.model = models.spec("vit_ti16", num_classes=0)
    c.model.block.drop_path = 0.1
    c.data.name = ""  # the images are those of data.root
    c.data.image_size = (224, 224)
    c.data.crop = "inception"
    c.data.crop_area = (0.2, 1.0)
    c.data.crop_fraction = 0.875
    c.data.flip = True
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 20
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.eval.every_steps = 200
    c.checkpoint.every_steps = 200
    return c
