"""The variables that a run takes from pretrained weights (`config.init_from`)."""

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
    """Return the pretrained variables by name, and notes about them.

    The parameters of a new head are missing; the caller initializes them.

    Raises:
      InputMissingError: There is no checkpoint.
      CheckpointError: The checkpoint is corrupt.
      ConfigError: The variables do not fit the model; the message lists all that do not fit.
    """
    config = run.config
    directory = open_path(config.init_from, "config.init_from")
    source = pretrained.restore(directory, "", config_lib.read_config(directory), run.mesh)
    shapes = {name: leaf.shape for name, leaf in names(run.saved_shapes.params).items()}
    resize = functools.partial(resize_table, model=config.model)
    params, resized = adapt.resize_tables(names(source.variables["params"]), shapes, resize)
    params, adapted = adapt.adapt_stem(params, shapes, adapt_channels, resize_patch)
    classes = run.splits["train"].class_names
    known = bool(source.class_names) and bool(classes)
    others = known and not class_names.same(source.class_names, classes)
    params, replaced = adapt.replace_heads(params, shapes, other_classes=others)
    adapt.check_fit(params, shapes, config.init_from)
    taken = f"{len(params)} of {len(shapes)} parameters from {directory}, step {source.step:,}"
    method = config.model["posemb"].get("interpolation", "bicubic")
    notes = [f"{note} ({method})" for note in resized] + [*adapted, *replaced]
    if not source.class_names and adapt.CLASSIFIERS[0] in {name.split("/")[0] for name in params}:
        notes.append("head reused, although the weights do not name their classes")
    variables = {f"params/{name}": leaf for name, leaf in params.items()}
    return variables | _collections(run, source, other_classes=others), [taken, *notes]


def _collections(
    run: Run, source: pretrained.Trained, *, other_classes: bool
) -> dict[str, jax.Array]:
    """Return the pretrained variables outside `params` by name, without those of new heads.

    Raises:
      ConfigError: The source model lacks some of them; the message lists all that are missing.
    """
    found: dict[str, jax.Array] = {}
    for collection, tree in run.saved_shapes.collections.items():
        shapes = {name: leaf.shape for name, leaf in names(tree).items()}
        theirs = names(source.variables.get(collection, {}))
        kept, _ = adapt.replace_heads(theirs, shapes, other_classes=other_classes)
        adapt.check_fit(kept, shapes, f"{run.config.init_from}, {collection}")
        found |= {f"{collection}/{name}": leaf for name, leaf in kept.items()}
    return found
