"""The models of timm themselves, where it is installed."""

import pathlib
import sys
from typing import Any

import numpy as np

from vit_jax.errors import CheckpointError
from vit_jax.weights.documents import Json
from vit_jax.weights.folder import open_weights


def outputs(architecture: str, arguments: Json, path: pathlib.Path, pixels: Any) -> Any:
    """Return what a model computes: logits, or features where there are no classes.

    The weights are read as timm reads them, which knows the names of Meta and Microsoft, and every
    one of them must fit.

    Args:
      architecture: The name of the model.
      arguments: Its arguments.
      path: Its weights.
      pixels: Images (b, c, h, w), of torch.

    Raises:
      CheckpointError: timm does not make this model, or it does not take these weights.
    """
    import timm
    import torch

    file, _ = open_weights(path)
    with file:
        arrays = {
            name: torch.from_numpy(np.float32(file.read(name)))
            for name in file.headers
            if not name.startswith("decoder_")  # of MAE, which timm leaves out too
        }
    if arguments.get("reg_tokens") and "dist_token" in arrays:  # without a head of its own
        arrays["reg_token"] = arrays.pop("dist_token")
    try:
        model = timm.create_model(architecture, **{**arguments, "pretrained": False})
        read = sys.modules[type(model).__module__].checkpoint_filter_fn
        model.load_state_dict(read(arrays, model))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        problem = str(error).replace("\n", " ")[:300]
        raise CheckpointError(f"{path}: timm's own {architecture} differs: {problem}") from error
    return model.eval()(pixels)
