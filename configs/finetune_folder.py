"""Fine-tune any model of yours, or imported weights, on a folder of images.

  python -m vit_jax.train --config=configs/finetune_folder.py --config.data.root=PHOTOS
      --config.init_from=RUN

PHOTOS/CLASS/*, of which a tenth validates, or PHOTOS/train/CLASS/* and PHOTOS/val/CLASS/*: the
folders are the classes. Model, image size and normalization are those of RUN; the head is new.

  --config.optim.tune=head                 a linear probe: only the head trains
  --config.init_from=PROBE                 then the whole model, from the head of the probe, which
                                           suits few images (Kumar et al. 2022)
  --config.optim.freeze='stem.*,blocks_[0-5]/.*'
  --config.optim.layer_decay=0.75          a lower learning rate the nearer a layer is to the input
  --config.data.image_size=256,384         another resolution, square or not
  --config.model.name=vit_ti16             from scratch, to compare
"""

import ml_collections

from vit_jax import config


def get_config() -> ml_collections.ConfigDict:
    """Return the recipe."""
    c = config.to_config_dict(config.Config())
    c.batch_size = 64
    c.total_epochs = 20.0
    c.model = {"name": "", "num_classes": 0, "block": {"drop_path": 0.1}}
    c.data.train_split = "train"
    c.data.val_split = "val"
    c.data.test_split = ""
    c.data.crop = "inception"
    c.data.crop_area = (0.35, 1.0)
    c.data.flip = True
    c.objective.label_smoothing = 0.1
    c.optim.learning_rate = 1e-4
    c.optim.warmup_epochs = 1.0
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    c.eval.every_steps = 100
    c.checkpoint.every_steps = 200
    return c
