"""Pictures for notebooks: training curves, images, patches, predictions.

Every function returns a Matplotlib figure, which shows itself as the last expression of a cell;
`figure.savefig("curves.png")` writes it. The colours are distinct to the colour-blind.
"""

from vit_jax.viz.viz import image_grid, patches, predictions, training_curves

__all__ = ["image_grid", "patches", "predictions", "training_curves"]
