"""Fine-tune a trained model on a folder of images.

  python -m vit_jax.train --config=configs/finetune_folder.py:probe --config.data.root=PHOTOS
      --config.init_from=WEIGHTS
  python -m vit_jax.train --config=configs/finetune_folder.py --config.data.root=PHOTOS
      --config.init_from=runs/finetune_folder_probe

`probe` trains the head only. Without an argument, all parameters train. `docs/your_photos.md` says
when to use which, and how accurate both are.

WEIGHTS is a run folder or converted weights; model, image size, mean and standard deviation come
from it. PHOTOS has a folder per class, PHOTOS/CLASS/*, or a folder per split, PHOTOS/train/CLASS/*
and PHOTOS/val/CLASS/*. The head is new, unless WEIGHTS has the same classes.

  --config.data.image_size=224,224         another resolution, square or not
  --config.optim.freeze='stem.*,blocks_[0-5]/.*'
  --config.optim.layer_decay=0.75          a lower learning rate for layers near the input
  --config.model.name=vit_ti16             from scratch, to compare

Smallest slices and their peaks in GiB (docs/recipes.md): full: h100:1 (10.7), v5e:1x1 (6.7),
v4:2x2x1 (2.6); probe: h100:1 (0.6), v5e:1x1 (0.7), v4:2x2x1 (0.4).
"""

from typing import NamedTuple

import ml_collections

from vit_jax import config
from vit_jax.errors import pick


class Recipe(NamedTuple):
    """The settings that depend on which parameters train."""

    tune: str
    learning_rate: float
    drop_path: float


RECIPES = {
    "full": Recipe(tune="all", learning_rate=1e-4, drop_path=0.1),
    "probe": Recipe(tune="head", learning_rate=1e-2, drop_path=0.0),
}


def get_config(recipe: str = "full") -> ml_collections.ConfigDict:
    """Return the recipe `full`, or `probe`, a linear probe."""
    chosen = pick(RECIPES, recipe, "--config=configs/finetune_folder.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 64
    c.total_epochs = 20.0
    c.model = {"name": "", "num_classes": 0, "block": {"drop_path": chosen.drop_path}}
    c.data.name = ""  # the images are those of data.root
    c.data.crop = "inception"
    c.data.crop_area = (0.35, 1.0)
    c.data.flip = True
    c.objective.label_smoothing = 0.1
    c.optim.tune = chosen.tune
    c.optim.learning_rate = chosen.learning_rate
    c.optim.warmup_epochs = 1.0
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.eval.every_steps = 100
    c.checkpoint.every_steps = 200
    return c
