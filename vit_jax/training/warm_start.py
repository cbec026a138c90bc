"""The variables that a run takes from other weights (`config.init_from`)."""

import functools

import flax
import jax

from vit_jax import config as config_lib
from vit_jax.checkpoints import pretrained
from vit_jax.console.workdir import open_path
from vit_jax.data.sources import class_names
from vit_jax.models.resizing import adapt_channels, resize_patch, resize_table
from vit_jax.training.run import Run
from vit_jax.weights import adapt

names = functools.partial(flax.traverse_util.flatten_dict, sep="/")


def load_variables(run: Run) -> tuple[dict[str, jax.Array], list[str]]:
    """Return the variables to start from by name, and what to say about them.

    Those that are missing, of a new head, are to be initialized.

    Raises:
      InputMissingError: There is no checkpoint.
      CheckpointError: It is damaged.
      ConfigError: The variables are not those of the model; all that do not fit are listed.
    """
    config = run.config
    directory = open_path(config.init_from, "config.init_from")
    donor = pretrained.restore(directory, "", config_lib.read_config(directory), run.mesh)
    shapes = {name: leaf.shape for name, leaf in names(run.shapes.params).items()}
    resize = functools.partial(resize_table, model=config.model)
    params, resized = adapt.resize_tables(names(donor.variables["params"]), shapes, resize)
    params, adapted = adapt.adapt_stem(params, shapes, adapt_channels, resize_patch)
    classes = run.splits["train"].class_names
    known = bool(donor.class_names) and bool(classes)
    others = known and not class_names.same(donor.class_names, classes)
    params, replaced = adapt.replace_heads(params, shapes, other_classes=others)
    adapt.check_fit(params, shapes, config.init_from)
    taken = f"{len(params)} of {len(shapes)} parameters from {directory}, step {donor.step:,}"
    method = config.model["posemb"].get("interpolation", "bicubic")
    notes = [f"{note} ({method})" for note in resized] + [*adapted, *replaced]
    if not donor.class_names and adapt.CLASSIFIERS[0] in {name.split("/")[0] for name in params}:
        notes.append("head taken, though nobody says which classes its outputs are")
    variables = {f"params/{name}": leaf for name, leaf in params.items()}
    return variables | _collections(run, donor, other_classes=others), [taken, *notes]


def _collections(
    run: Run, donor: pretrained.Trained, *, other_classes: bool
) -> dict[str, jax.Array]:
    """Return the other collections of the model, by name, of which those of new heads are missing.

    Raises:
      ConfigError: The donor lacks some; all of them are listed.
    """
    found: dict[str, jax.Array] = {}
    for collection, tree in run.shapes.collections.items():
        shapes = {name: leaf.shape for name, leaf in names(tree).items()}
        theirs = names(donor.variables.get(collection, {}))
        kept, _ = adapt.replace_heads(theirs, shapes, other_classes=other_classes)
        adapt.check_fit(kept, shapes, f"{run.config.init_from}, {collection}")
        found |= {f"{collection}/{name}": leaf for name, leaf in kept.items()}
    return found
