"""The outputs of the original libraries for the same weights, where they are installed."""

import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_jax.errors import ConfigError
from vit_jax.weights import huggingface, timm
from vit_jax.weights.files.torch import import_torch
from vit_jax.weights.folder import open_weights

PACKAGES = {"huggingface": "transformers", "timm": "timm"}


def check_installed(source: str) -> None:
    """Check that a library can be compared with.

    Raises:
      ConfigError: The library has no package, or it is not installed.
    """
    if source not in PACKAGES:
        packages = " and ".join(PACKAGES)
        raise ConfigError("--check", f"{source} has no package to compare with; {packages} have")
    import_torch("--check")
    if not importlib.util.find_spec(PACKAGES[source]):
        problem = f"{PACKAGES[source]} is not installed; pip install {PACKAGES[source]}"
        raise ConfigError("--check", problem)


def outputs(
    source: str, path: pathlib.Path, fields: Mapping[str, Any], images: np.ndarray
) -> np.ndarray:
    """Return the logits (b, k), or the features (b, d) of a model without classes.

    Args:
      source: The library.
      path: The weights.
      fields: Fields of our model.
      images: Normalized images (b, h, w, c).

    Raises:
      ConfigError: torch is not installed, or the library has no such model.
    """
    torch = import_torch("--check")
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return _OUTPUTS[source](path, fields, pixels).numpy()


def _huggingface(path: pathlib.Path, fields: Mapping[str, Any], pixels: Any) -> Any:
    import transformers

    model = getattr(transformers, huggingface.class_name(fields)).from_pretrained(path).eval()
    output = model(pixels)
    return output.logits if fields["num_classes"] else output.pooler_output


def _timm(path: pathlib.Path, fields: Mapping[str, Any], pixels: Any) -> Any:
    import timm as library
    import torch

    name = timm.architecture(fields)
    if not name:
        raise ConfigError("--check", "timm has no such hybrid")
    model = library.create_model(name, **timm.arguments(fields, tuple(pixels.shape[2:])))
    file, _ = open_weights(path)
    with file:
        arrays = {name: torch.from_numpy(np.float32(file.read(name))) for name in file.headers}
    model.load_state_dict(arrays)
    return model.eval()(pixels)


_OUTPUTS: dict[str, Callable[[pathlib.Path, Mapping[str, Any], Any], Any]] = {
    "huggingface": _huggingface,
    "timm": _timm,
}
