"""The libraries by name: which of them have weights of a model's family."""

from typing import Any

from vit_jax import models
from vit_jax.errors import ConfigError, DataError, pick
from vit_jax.models.families import FAMILIES
from vit_jax.weights import reference
from vit_jax.weights.library import Documents, Library, Original, Shapes
from vit_jax.weights.their_names import translate


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


def infer_model(source: str, shapes: Shapes, documents: Documents) -> dict[str, Any]:
    """Return the name of our model of weights, as `name`, and fields that it does not state.

    Args:
      source: The name of the library.
      shapes: Of the arrays of a file, by name.
      documents: The documents beside it, by file name.

    Raises:
      ConfigError: There is no such library, or no document beside the weights names a model.
      DataError: A document names none of our models, or not enough of one.
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
        except DataError as error:  # maybe it is a model of the next family
            errors.append(error)
    if errors:
        raise errors[0]
    hint = "only a config.json of timm or Hugging Face beside the weights would tell"
    raise ConfigError("--model", f"expected the name of a model, such as vit_b16; {hint}")


def find_original(source: str, model: str) -> Original:
    """Return the models of a library itself, which are installed.

    Args:
      source: The name of the library.
      model: The name of our model; empty where the weights will tell.

    Raises:
      ConfigError: There is no such library or model, or it has no package that is installed.
    """
    if model:
        return reference.find_original(find_library(source, model, "--source"), source)
    pick(dict.fromkeys(list_libraries()), source, "--source")
    families = (family.libraries() for family in FAMILIES.values())
    return reference.find_original(next(f[source] for f in families if source in f), source)


def check_name(model: str) -> None:
    """Refuse the name of a model that we do not know, and say ours where it is of another library.

    Raises:
      ConfigError: There is no such model.
    """
    try:
        models.family(model)
    except ConfigError as error:
        if ours := translate(model):
            problem = f"'{model}' is not a name of ours; did you mean {ours}?"
            raise ConfigError("--model", problem) from error
        raise
