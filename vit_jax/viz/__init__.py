"""Figures for notebooks: training curves, images, patches, predictions.

Every function returns a Matplotlib figure, which a notebook shows as the last expression of a cell;
`figure.savefig("curves.png")` writes it. The colours are distinct to the colour-blind.
"""

from vit_jax.viz.curves import training_curves
from vit_jax.viz.grids import image_grid, patches
from vit_jax.viz.probabilities import predictions

__all__ = ["image_grid", "patches", "predictions", "training_curves"]
