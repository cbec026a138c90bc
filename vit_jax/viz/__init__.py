"""Figures for notebooks: training curves, images, patches, predictions, and what a model sees.

Functions for charts return a Matplotlib figure: `figure.savefig("curves.png")` writes it to a file.
Functions for pictures that are made of pixels, such as maps and sheets, return a Pillow image:
`image.save("map.png")`. A notebook displays both if they are the last expression of a cell. The
colours are safe for colour-blind readers.
"""

from vit_jax.viz.curves import training_curves
from vit_jax.viz.grids import image_grid, patches
from vit_jax.viz.inside import attention_distances, bias_sheet, filter_sheet, similarity_sheet
from vit_jax.viz.map_sheets import map_sheet, model_picture
from vit_jax.viz.maps import map_on_image, patch_colours, plain_image
from vit_jax.viz.probabilities import predictions
from vit_jax.viz.sheets import Picture, Row, sheet

__all__ = [
    "Picture",
    "Row",
    "attention_distances",
    "bias_sheet",
    "filter_sheet",
    "image_grid",
    "map_on_image",
    "map_sheet",
    "model_picture",
    "patch_colours",
    "patches",
    "plain_image",
    "predictions",
    "sheet",
    "similarity_sheet",
    "training_curves",
]
