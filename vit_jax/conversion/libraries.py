"""The libraries by name: which of them have weights of a model's family."""

from vit_jax import models
from vit_jax.errors import ConfigError, pick
from vit_jax.models.families import FAMILIES
from vit_jax.weights.library import Library


def list_libraries() -> list[str]:
    """Return the names of the libraries that have weights of any family."""
    return list(dict.fromkeys(name for family in FAMILIES.values() for name in family.libraries()))


def find_library(name: str, model: str, flag: str) -> Library:
    """Return a library as it is for the family of a model.

    Args:
      name: Of the library.
      model: The name of our model.
      flag: The flag that names the library, for errors.

    Raises:
      ConfigError: There is no such library or model, or the library has no weights of its family.
    """
    family = models.family(model)
    pick(dict.fromkeys(list_libraries()), name, flag)
    libraries = family.libraries()
    if name not in libraries:
        hint = f"choose from {', '.join(libraries)}" if libraries else "no library has"
        raise ConfigError(flag, f"{name} has no weights of a {family.name}, as {model} is; {hint}")
    return libraries[name]


def series_of(model: str) -> str:
    """Return what the name of a model begins with, such as `deit3`."""
    return model.split("_")[0]
