"""Run the original libraries, if they are installed, on the same weights."""

import importlib.util
import pathlib

import numpy as np

from vit_jax.errors import ConfigError
from vit_jax.weights.files.torch import import_torch
from vit_jax.weights.library import Fields, Library, Original


def find_original(library: Library, name: str) -> Original:
    """Return the implementation of a library, after a check that its package is installed.

    Args:
      library: The library.
      name: The name of the library, for errors.

    Raises:
      ConfigError: The library has no package, or the package is not installed.
    """
    if library.original is None:
        problem = f"{name} has no package to compare with; omit --check"
        raise ConfigError("--check", problem)
    import_torch("--check")
    package = library.original.package
    if not importlib.util.find_spec(package):
        raise ConfigError("--check", f"{package} is not installed; pip install {package}")
    return library.original


def outputs(
    original: Original, path: pathlib.Path, fields: Fields, images: np.ndarray
) -> np.ndarray:
    """Compute the outputs of the library's own model.

    Args:
      original: The implementation of the library.
      path: The path of the weights.
      fields: The fields of our model, by path.
      images: Normalized images (b, h, w, c).

    Returns:
      Logits (b, k), or features (b, d) for a model without classes.

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
