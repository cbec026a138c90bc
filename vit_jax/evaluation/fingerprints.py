"""Fingerprints of what results depend on: the function that a model computes, and the images."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vit_jax import config as config_lib
from vit_jax.config.identity import SAME_FUNCTION, shapes_outputs
from vit_jax.config.schema import as_dict, flatten
from vit_jax.console.text import to_json
from vit_jax.data.sources import Source

SECTIONS = ("model", "data")  # whose settings shape the features of an image


def of_model(config: config_lib.Config, variables: Mapping[str, Any]) -> str:
    """Return a digest of a model: its variables, and the settings that shape its outputs.

    Settings that give the same function up to rounding do not count, such as the kernel of the
    attention.

    Args:
      config: The config of the model, with the preprocessing.
      variables: `params` and the other collections, each on one device or replicated.
    """
    settings = {
        key: value
        for key, value in flatten(as_dict(config)).items()
        if key.split(".")[0] in SECTIONS and shapes_outputs(key) and not _is_free(key, value)
    }
    digest = hashlib.sha256(to_json(dict(sorted(settings.items()))).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        array = np.asarray(leaf)
        name = "/".join(str(key.key) for key in path)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def of_images(source: Source) -> dict[str, Any]:
    """Return what identifies the images of a source, as plain JSON, without the class names."""
    return {key: value for key, value in source.fingerprint.items() if key != "classes"}


def _is_free(key: str, value: Any) -> bool:
    """Return whether a setting has a value that does not change the function of the model."""
    if key not in SAME_FUNCTION:
        return False
    free = SAME_FUNCTION[key]
    return not free or value in free  # without values, all are free
