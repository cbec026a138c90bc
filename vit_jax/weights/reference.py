"""The outputs of the original libraries for the same weights, where they are installed."""

import importlib.util
import pathlib

import numpy as np

from vit_jax.errors import ConfigError
from vit_jax.weights.files.torch import import_torch
from vit_jax.weights.library import Fields, Library, Original


def find_original(library: Library, name: str) -> Original:
    """Return the models of the library itself, which are installed.

    Args:
      library: The library.
      name: Its name, for errors.

    Raises:
      ConfigError: The library has no package, or it is not installed.
    """
    if library.original is None:
        problem = f"{name} has no package to compare with; leave --check out"
        raise ConfigError("--check", problem)
    import_torch("--check")
    package = library.original.package
    if not importlib.util.find_spec(package):
        raise ConfigError("--check", f"{package} is not installed; pip install {package}")
    return library.original


def outputs(
    original: Original, path: pathlib.Path, fields: Fields, images: np.ndarray
) -> np.ndarray:
    """Return the logits (b, k), or the features (b, d) of a model without classes.

    Args:
      original: The models of the library.
      path: The weights.
      fields: Fields of our model.
      images: Normalized images (b, h, w, c).

    Raises:
      ConfigError: torch is not installed, the library cannot be imported, or has no such model.
    """
    torch = import_torch("--check")
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    try:
        with torch.inference_mode():
            return original.outputs(path, fields, pixels).numpy()
    except ImportError as error:
        problem = f"{original.package} cannot be imported: {error}"
        raise ConfigError("--check", problem) from error
