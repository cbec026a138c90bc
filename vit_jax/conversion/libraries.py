"""Look up libraries by name and by the family of a model."""

from typing import Any

from vit_jax import models
from vit_jax.errors import ConfigError, DataError, pick
from vit_jax.models.families import FAMILIES
from vit_jax.weights import reference
from vit_jax.weights.foreign_names import translate
from vit_jax.weights.library import Documents, Library, Original, Shapes


def list_libraries() -> list[str]:
    """Return the names of all libraries."""
    return list(dict.fromkeys(name for family in FAMILIES.values() for name in family.libraries()))


def find_library(name: str, model: str, flag: str) -> Library:
    """Return the record of a library for the family of a model.

    Args:
      name: The name of the library.
      model: The name of our model.
      flag: The flag that names the library, for errors.

    Raises:
      ConfigError: The library or model is unknown, or the library has no weights of its family.
    """
    family = models.family(model)
    pick(dict.fromkeys(list_libraries()), name, flag)
    libraries = family.libraries()
    if name not in libraries:
        hint = f"choose from {', '.join(libraries)}" if libraries else "no library has any"
        problem = f"{name} has no weights of the family {family.name} ({model})"
        raise ConfigError(flag, f"{problem}; {hint}")
    return libraries[name]


def series_of(model: str) -> str:
    """Return the first part of a model's name, such as `deit3`."""
    return model.split("_")[0]


def infer_model(source: str, shapes: Shapes, documents: Documents) -> dict[str, Any]:
    """Infer our model from weights and the documents beside them.

    Args:
      source: The name of the library.
      shapes: Shapes of the arrays in the file, by name.
      documents: The documents beside the file, by file name.

    Returns:
      The name of our model (`name`), and the fields that differ from its preset.

    Raises:
      ConfigError: The library is unknown, or no document names a model.
      DataError: The document names a model that is not supported, or is incomplete.
    """
    pick(dict.fromkeys(list_libraries()), source, "--source")
    errors = []
    for family in FAMILIES.values():
        library = family.libraries().get(source)
        if library is None or library.infer is None:
            continue
        try:
            if inferred := library.infer(shapes, documents):
                return dict(inferred)
        except DataError as error:  # the next family may have the model
            errors.append(error)
    if errors:
        raise errors[0]
    hint = "it can be inferred only from a config.json of timm or Hugging Face"
    raise ConfigError("--model", f"expected the name of a model, such as vit_b16; {hint}")


def find_original(source: str, model: str) -> Original:
    """Return a library's own implementation, for `--check`.

    Args:
      source: The name of the library.
      model: The name of our model; empty if it will be inferred from the weights.

    Raises:
      ConfigError: The library or model is unknown, or the library's package is not installed.
    """
    if model:
        return reference.find_original(find_library(source, model, "--source"), source)
    pick(dict.fromkeys(list_libraries()), source, "--source")
    families = (family.libraries() for family in FAMILIES.values())
    return reference.find_original(next(f[source] for f in families if source in f), source)


def check_name(model: str) -> None:
    """Check the name of a model. The error suggests our name for that of another library.

    Raises:
      ConfigError: The model is unknown.
    """
    try:
        models.family(model)
    except ConfigError as error:
        if ours := translate(model):
            problem = f"'{model}' is a name of another library; did you mean {ours}?"
            raise ConfigError("--model", problem) from error
        raise
