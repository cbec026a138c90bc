"""Families of models."""

from typing import NamedTuple

from vit_jax.errors import ConfigError, suggest
from vit_jax.models import presets
from vit_jax.models.swin import Swin
from vit_jax.models.transformer import Transformer
from vit_jax.models.vit import ViT


class Family(NamedTuple):
    """A family."""

    name: str
    module: type[Transformer]


FAMILIES = {"vit": Family("vit", ViT), "swin": Family("swin", Swin)}


def family(name: str) -> Family:
    """Return the family of a model.

    Raises:
      ConfigError: No such model.
    """
    preset = presets.find(name)
    if preset is None:
        raise ConfigError("config.model.name", f"unknown '{name}'; {suggest(name, presets.NAMES)}")
    return FAMILIES[preset.module]


def stated_fields(name: str) -> presets.Fields:
    """Return the fields that a name states, by path: sizes, patch and what its family changes."""
    preset = presets.find(name)
    return preset.fields if preset else {}
