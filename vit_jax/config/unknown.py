"""Errors for unknown settings."""

from collections.abc import Collection, Mapping

from vit_jax import models
from vit_jax.config.choice_layers import describe_owners, origin_suffix
from vit_jax.config.layers import Layer
from vit_jax.config.suggestions import suggest_path
from vit_jax.errors import ConfigError
from vit_jax.settings.recorded import Setting


def check_known(
    given: Mapping[str, Setting | str], field_paths: Collection[str], name: str, chosen: Layer
) -> None:
    """Check that every setting is a field.

    Args:
      given: Settings, or texts of flags, by path.
      field_paths: Paths of all fields.
      name: Name of the model.
      chosen: Name of the entry of each section that selects one from a table.

    Raises:
      ConfigError: A setting is not a field; the error suggests similar fields.
    """
    for path, value in given.items():
        if path not in field_paths:
            problem = _describe(path, value, set(field_paths), name, chosen)
            origin = value.origin if isinstance(value, Setting) else ""
            raise ConfigError(f"config.{path}", f"{problem}{origin_suffix(origin)}")


def _describe(
    path: str, value: Setting | str, field_paths: set[str], name: str, chosen: Layer
) -> str:
    if any(other.startswith(f"{path}.") for other in field_paths):
        shown = value if isinstance(value, str) else repr(value.value)
        return f"expected a section, got {shown}"
    if problem := describe_owners(path, chosen, name):
        return problem
    who = f"{name} has no such field" if path.startswith("model.") else "no such field"
    field_paths |= {f"model.{key}" for key in models.all_declarations(name)}
    return f"{who}; {suggest_path(path, field_paths)}"
