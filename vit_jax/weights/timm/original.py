"""Run timm's own models."""

import pathlib
import sys
from typing import Any

import numpy as np

from vit_jax.errors import CheckpointError
from vit_jax.weights.documents import Json
from vit_jax.weights.folder import open_weights


def outputs(architecture: str, arguments: Json, path: pathlib.Path, pixels: Any) -> Any:
    """Compute the outputs of a model of timm.

    timm itself maps the names in the file, including those of Meta and Microsoft. Every array must
    match the model.

    Args:
      architecture: The name of the model.
      arguments: The constructor arguments.
      path: The path of the weights.
      pixels: Images (b, c, h, w), a torch tensor.

    Returns:
      Logits (b, k), or features (b, d) if there are no classes; a torch tensor.

    Raises:
      CheckpointError: timm cannot build the model, or the weights do not match it.
    """
    import timm
    import torch

    file, _ = open_weights(path)
    with file:
        arrays = {
            name: torch.from_numpy(np.float32(file.read(name)))
            for name in file.headers
            if not name.startswith("decoder_")  # MAE's decoder, which timm ignores too
        }
    if arguments.get("reg_tokens") and "dist_token" in arrays:  # it has no head of its own
        arrays["reg_token"] = arrays.pop("dist_token")
    try:
        model = timm.create_model(architecture, **{**arguments, "pretrained": False})
        read = sys.modules[type(model).__module__].checkpoint_filter_fn
        model.load_state_dict(read(arrays, model))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        problem = str(error).replace("\n", " ")[:300]
        raise CheckpointError(f"{path}: timm's own {architecture} differs: {problem}") from error
    return model.eval()(pixels)
