"""What a run takes from `config.init_from`: fields of its model, preprocessing, and parameters."""

import dataclasses
import functools
from collections.abc import Mapping

import flax
import jax
import ml_collections

from vit_jax import config as config_lib
from vit_jax import models, trained
from vit_jax.errors import ConfigError
from vit_jax.models.transformer import resize_table
from vit_jax.run import Run
from vit_jax.weights import adapt
from vit_jax.workdir import open_path

# Of these fields the new run's values count, whatever the weights were trained with.
OWN_FIELDS = (
    *("name", "num_classes", "representation_size", "head_bias", "dtype"),
    *("dropout", "dropout_sites", "attn_dropout", "drop_path", "drop_path_schedule"),
)
# Of these they count where the config sets them.
CHOSEN_FIELDS = (
    *("pool", "posemb_interpolation", "posemb_antialias", "layer_scale"),
    *("attention", "window", "mask_padding", "landmarks", "pretrained_window"),
)


# A config that leaves its model to `init_from` has these from there as well, unless it sets them.
DATA_FIELDS = (*("image_size", "channels", "mean", "std", "interpolation", "fit", "crop_fraction"),)


def adopt(
    tree: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> ml_collections.ConfigDict:
    """Returns the settings of a config file with the model that they leave to `init_from`.

    A config file leaves it by an empty name, `c.model = {"name": ""}`; what else it sets of the
    model is set then. A flag with a name makes it a training from scratch.

    Raises:
      InputMissingError: There is no such run folder.
      ConfigError: Neither `init_from` nor a name is given.
    """
    if tree.model.get("name") != "":
        return tree
    fields = {key: value for key, value in tree.model.items() if key != "name"}
    directory = overrides.get("init_from", tree.init_from)
    if "model.name" in overrides:
        tree.model = models.spec(overrides["model.name"], **fields)
    elif directory:
        origin = trained.read_config(open_path(directory, "config.init_from"))
        preset = models.spec(origin.model["name"]).to_dict()
        own = {key: preset[key] for key in OWN_FIELDS if key != "name"}
        tree.model = {**origin.model, **own, **fields}
        default = config_lib.as_dict(config_lib.Data())
        for key in DATA_FIELDS:
            if tree.data[key] == default[key]:
                tree.data[key] = getattr(origin.data, key)
    else:
        problem = "expected a run folder or converted weights, or a config.model.name"
        raise ConfigError("config.init_from", problem)
    return tree


def merge(config: config_lib.Config) -> config_lib.Config:
    """Returns the config with what the weights of `init_from` were trained with.

    Fields of the model that its parameters do not show, such as the activation, and mean and
    deviation of the pixels are theirs, unless the config sets them.

    Raises:
      InputMissingError: There is no such run folder.
      ConfigError: The config sets a field to what these weights were not trained with.
    """
    if not config.init_from:
        return config
    origin = trained.read_config(open_path(config.init_from, "config.init_from"))
    old, new = origin.model, dict(config.model)
    donor, kind = models.create(**old), models.kind(new["name"])
    if models.kind(old["name"]) != kind:
        problem = f"{config.init_from} holds a {old['name']}, which is no {kind}"
        raise ConfigError("config.model.name", f"{problem}; got {new['name']}")
    for key in sorted(models.SIZE_FIELDS[kind] - set(CHOSEN_FIELDS)):
        if old[key] != new[key]:
            problem = f"{config.init_from} holds a {old['name']}, whose {key} is {old[key]}"
            raise ConfigError("config.model.name", f"{problem}; {new['name']} has {new[key]}")
    preset, preset_of_old = models.spec(new["name"]), models.spec(old["name"])
    for key in old.keys() - set(OWN_FIELDS):
        is_in_name = key == "window" and preset[key] != preset_of_old[key]
        if new[key] == preset[key] and not is_in_name:
            new[key] = old[key]
        elif new[key] != old[key] and key not in CHOSEN_FIELDS:
            problem = f"the weights of {config.init_from} were trained with {old[key]}"
            raise ConfigError(f"config.model.{key}", f"{problem}, got {new[key]}")
    if isinstance(donor, models.Swin) and new["window"] != old["window"]:
        known = new["pretrained_window"] or donor.window_sides(origin.data.image_size)
        new["pretrained_window"] = known  # read by log_cpb
    default = config_lib.Data()
    pixels = {
        key: getattr(origin.data, key)
        for key in ("mean", "std")
        if getattr(config.data, key) == getattr(default, key)
        and origin.data.channels == config.data.channels
    }
    data = dataclasses.replace(config.data, **pixels)
    return dataclasses.replace(config, model=new, data=data)


def parameters(run: Run) -> tuple[dict[str, jax.Array], list[str]]:
    """Returns the parameters to start from by name, and what to say about them.

    Those that are missing, of a new head, are to be initialized.

    Raises:
      InputMissingError: There is no checkpoint.
      CheckpointError: It is damaged.
      ConfigError: The parameters are not those of the model; all that do not fit are listed.
    """
    config = run.config
    directory = open_path(config.init_from, "config.init_from")
    origin = trained.restore(directory, "", trained.read_config(directory), run.mesh)
    names = functools.partial(flax.traverse_util.flatten_dict, sep="/")
    shapes = {name: leaf.shape for name, leaf in names(run.shapes.params).items()}
    resize = functools.partial(resize_table, model=config.model)
    params, resized = adapt.resize_tables(names(origin.params), shapes, resize)
    params, replaced = adapt.replace_heads(params, shapes)
    adapt.check_fit(params, shapes, config.init_from)
    taken = f"{len(params)} of {len(shapes)} parameters from {directory}, step {origin.step:,}"
    method = config.model["posemb_interpolation"]
    notes = [f"{note} ({method})" for note in resized] + list(replaced)
    known = origin.class_names
    if known and not replaced and known != run.splits["train"].class_names:
        notes.append("head taken, though its classes have other names")
    return params, [taken, *notes]
