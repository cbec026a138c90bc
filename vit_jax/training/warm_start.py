"""The parameters that a run takes from other weights (`config.init_from`)."""

import functools

import flax
import jax

from vit_jax import config as config_lib
from vit_jax.checkpoints import pretrained
from vit_jax.console.workdir import open_path
from vit_jax.models.resizing import resize_table
from vit_jax.training.run import Run
from vit_jax.weights import adapt


def load_parameters(run: Run) -> tuple[dict[str, jax.Array], list[str]]:
    """Return the parameters to start from by name, and what to say about them.

    Those that are missing, of a new head, are to be initialized.

    Raises:
      InputMissingError: There is no checkpoint.
      CheckpointError: It is damaged.
      ConfigError: The parameters are not those of the model; all that do not fit are listed.
    """
    config = run.config
    directory = open_path(config.init_from, "config.init_from")
    donor = pretrained.restore(directory, "", config_lib.read_config(directory), run.mesh)
    names = functools.partial(flax.traverse_util.flatten_dict, sep="/")
    shapes = {name: leaf.shape for name, leaf in names(run.shapes.params).items()}
    resize = functools.partial(resize_table, model=config.model)
    params, resized = adapt.resize_tables(names(donor.params), shapes, resize)
    params, replaced = adapt.replace_heads(params, shapes)
    adapt.check_fit(params, shapes, config.init_from)
    taken = f"{len(params)} of {len(shapes)} parameters from {directory}, step {donor.step:,}"
    method = config.model["posemb"].get("interpolation", "bicubic")
    notes = [f"{note} ({method})" for note in resized] + list(replaced)
    classes = run.splits["train"].class_names
    if donor.class_names and not replaced and donor.class_names != classes:
        notes.append("head taken, though its classes have other names")
    return params, [taken, *notes]
