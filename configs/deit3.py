"""DeiT III on ImageNet-1k (Touvron et al. 2022, tables 1, 3 and A; their `README_revenge.md`).

  python -m vit_jax.train --config=configs/deit3.py:s_800     # s, b or l; _400 or _800
  python -m vit_jax.train --config=configs/deit3.py:b_finetune --config.init_from=runs/deit3_b_800

B and L are trained at 192 pixels and then fine-tuned at 224. The authors report top-1 after that: S
81.4, B 83.8, L 84.9 with 800 epochs; S 80.4, B 83.5, L 84.5 with 400. The JAX code deit3-jax
reports S 80.7, B 83.6, L 84.62 with 400 epochs in 2 h 38, 4 h 42 and 14 h 10 on a TPU v4-64, and S
81.44, B 83.91 with 800. Nobody has run this recipe with this code yet.

Cost: batch size 2,048; 800 epochs are 1.02 billion images, so that a run of one day needs 11,900
images/s. Parameters, gradients and moments take 16 bytes per parameter: S 0.35 GB, B 1.4 GB, L 4.9
GB, plus activations.

Differences: the recipes for 400 epochs follow deit3-jax, with weight decay 0.02 and less stochastic
depth. Gradients are clipped at 1, the default of NVIDIA's LAMB, which the authors used.

Smallest slices and their peaks in GiB (docs/recipes.md): s_800: h100:1 (55.4), v5e:2x2 (14.5),
v4:2x2x1 (19.4); b_800, b_400: h100:1 (55.5), v5e:2x2 (14.5), v4:2x2x1 (28.2); l_800, l_400: h100:8
(39.5), v5e:4x4 (14.2), v4:2x2x2 (28.4); s_400: h100:1 (55.4), v5e:2x2 (14.5), v4:2x2x1 (19.4);
b_finetune: h100:1 (33.1), v5e:2x2 (12.6), v4:2x2x1 (10.4); l_finetune: h100:1 (55.8), v5e:2x2
(14.2), v4:2x2x1 (28.2).
"""

from typing import NamedTuple

import ml_collections

from vit_jax import config, models
from vit_jax.errors import pick


class Recipe(NamedTuple):
    """The settings that depend on size and duration."""

    model: str
    learning_rate: float
    drop_path: float
    pixels: int


RECIPES = {
    "s_800": Recipe("deit3_s16", learning_rate=4e-3, drop_path=0.05, pixels=224),
    "b_800": Recipe("deit3_b16", learning_rate=3e-3, drop_path=0.2, pixels=192),
    "l_800": Recipe("deit3_l16", learning_rate=3e-3, drop_path=0.45, pixels=192),
    "s_400": Recipe("deit3_s16", learning_rate=4e-3, drop_path=0.0, pixels=224),
    "b_400": Recipe("deit3_b16", learning_rate=3e-3, drop_path=0.1, pixels=192),
    "l_400": Recipe("deit3_l16", learning_rate=3e-3, drop_path=0.4, pixels=192),
    "b_finetune": Recipe("deit3_b16", learning_rate=1e-5, drop_path=0.2, pixels=224),
    "l_finetune": Recipe("deit3_l16", learning_rate=1e-5, drop_path=0.45, pixels=224),
}


def get_config(recipe: str = "s_800") -> ml_collections.ConfigDict:
    """Return the config for a size and a number of epochs, or for fine-tuning."""
    chosen = pick(RECIPES, recipe, "--config=configs/deit3.py:RECIPE")
    c = config.to_config_dict(config.Config())
    c.batch_size = 2048
    c.total_epochs = 800.0
    c.objective.loss = "binary"
    c.model = models.spec(chosen.model, num_classes=0, dtype="bfloat16")
    c.model.block.drop_path = chosen.drop_path
    c.model.block.drop_path_schedule = "constant"
    c.data.name = "imagenet2012"
    c.data.val_split = ""
    c.data.test_split = "validation"
    c.data.image_size = (chosen.pixels, chosen.pixels)
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.crop = "inception"
    c.data.flip = True
    c.data.augment = "3-augment"
    c.data.color_jitter = 0.3
    c.data.repeats = 3
    c.mix.mixup = 0.8
    c.mix.cutmix = 1.0
    c.optim.name = "lamb"
    c.optim.learning_rate = chosen.learning_rate
    c.optim.warmup_epochs = 5.0
    c.optim.warmup_learning_rate = 1e-6
    c.optim.end_learning_rate = 1e-5
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.checkpoint.every_steps = 625
    if recipe.endswith("400"):
        c.total_epochs = 400.0
        c.optim.weight_decay = 0.02
    if recipe.endswith("finetune"):
        c.batch_size = 512
        c.total_epochs = 20.0
        c.objective.loss = "softmax"
        c.objective.label_smoothing = 0.1
        c.data.augment = "rand-m9-mstd0.5-inc1"
        c.data.color_jitter = 0.0
        c.data.repeats = 1
        c.optim.name = "adamw"
        c.optim.weight_decay = 0.1
        c.optim.clip_norm = 0.0
    return c
