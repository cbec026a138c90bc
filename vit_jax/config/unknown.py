"""Settings that no field has."""

from collections.abc import Collection, Mapping

from vit_jax import models
from vit_jax.config.choice_layers import describe_owners, where
from vit_jax.config.layers import Layer
from vit_jax.config.suggestions import suggest_path
from vit_jax.errors import ConfigError
from vit_jax.settings.recorded import Setting


def check_known(
    given: Mapping[str, Setting | str], known: Collection[str], name: str, chosen: Layer
) -> None:
    """Check that there is a field for every setting.

    Args:
      given: Settings, and the texts of flags, by path.
      known: Paths of all fields.
      name: Of the model.
      chosen: The name of each section that is one of a table.

    Raises:
      ConfigError: There is none; with the nearest ones.
    """
    for path, value in given.items():
        if path not in known:
            problem = _describe(path, value, set(known), name, chosen)
            origin = value.origin if isinstance(value, Setting) else ""
            raise ConfigError(f"config.{path}", f"{problem}{where(origin)}")


def _describe(path: str, value: Setting | str, known: set[str], name: str, chosen: Layer) -> str:
    if any(other.startswith(f"{path}.") for other in known):
        shown = value if isinstance(value, str) else repr(value.value)
        return f"expected a section, got {shown}"
    if problem := describe_owners(path, chosen, name):
        return problem
    who = f"{name} has no such field" if path.startswith("model.") else "no such field"
    known |= {f"model.{key}" for key in models.all_declarations(name)}
    return f"{who}; {suggest_path(path, known)}"
