"""Figures for notebooks: training curves, images, patches, predictions.

Every function returns a Matplotlib figure. A notebook displays it if it is the last expression of a
cell; `figure.savefig("curves.png")` writes it to a file. The colours are safe for colour-blind
readers.
"""

from vit_jax.viz.curves import training_curves
from vit_jax.viz.grids import image_grid, patches
from vit_jax.viz.probabilities import predictions

__all__ = ["image_grid", "patches", "predictions", "training_curves"]
