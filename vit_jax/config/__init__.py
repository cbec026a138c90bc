"""The settings of a run: a typed schema, merged from layers that record who set each value.

c = config.to_config_dict(config.Config())           # in a config file
c.optim.learning_rate = 3e-4
resolved = config.resolve(c, {"batch_size": "64"})   # with flags
resolved.config.batch_size, resolved.origins["batch_size"]
"""

from vit_jax.config.data import SPLITS, Affine, Data, Mix, Synthetic
from vit_jax.config.files import load_config_file, split_config_path
from vit_jax.config.identity import changed_keys, covers, name_to_allow, shared_by_hosts
from vit_jax.config.objective import OBJECTIVES
from vit_jax.config.optim import Optim
from vit_jax.config.printing import describe
from vit_jax.config.resolution import (
    Resolved,
    fit_to_weights,
    merge,
    read_config,
    read_named_config,
    resolve,
)
from vit_jax.config.schema import (
    Checkpoint,
    Config,
    Eval,
    Log,
    Mesh,
    as_dict,
    flatten,
    to_config_dict,
)

__all__ = [
    "OBJECTIVES",
    "SPLITS",
    "Affine",
    "Checkpoint",
    "Config",
    "Data",
    "Eval",
    "Log",
    "Mesh",
    "Mix",
    "Optim",
    "Resolved",
    "Synthetic",
    "as_dict",
    "changed_keys",
    "covers",
    "describe",
    "fit_to_weights",
    "flatten",
    "load_config_file",
    "merge",
    "name_to_allow",
    "read_config",
    "read_named_config",
    "resolve",
    "shared_by_hosts",
    "split_config_path",
    "to_config_dict",
]
