"""The models of timm themselves, where it is installed."""

import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import ConfigError
from vit_jax.weights.documents import Json
from vit_jax.weights.folder import open_weights


def outputs(architecture: str, arguments: Json, path: pathlib.Path, pixels: Any) -> Any:
    """Return what a model computes: logits, or features where there are no classes.

    Args:
      architecture: The name of the model; empty where there is none.
      arguments: Its arguments.
      path: Its weights.
      pixels: Images (b, c, h, w), of torch.

    Raises:
      ConfigError: There is no such model.
    """
    import timm
    import torch

    if not architecture:
        raise ConfigError("--check", "timm has no such hybrid")
    model = timm.create_model(architecture, **arguments)
    file, _ = open_weights(path)
    with file:
        arrays = {name: torch.from_numpy(np.float32(file.read(name))) for name in file.headers}
    model.load_state_dict(arrays)
    return model.eval()(pixels)
