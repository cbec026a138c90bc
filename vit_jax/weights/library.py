"""The interface of a library whose weights come in and go out."""

from collections.abc import Mapping
from typing import Any, Protocol

from vit_jax.weights.documents import Json
from vit_jax.weights.files.base import Shape
from vit_jax.weights.import_spec import ImportSpec
from vit_jax.weights.rules import Rule


class Library(Protocol):
    """What a module says about the weights of a library.

    Attributes:
      RULES: The correspondence of its names and ours.
      FILE: The name of its weight file in a folder.
    """

    RULES: tuple[Rule, ...]
    FILE: str

    def placeholders(self, shapes: Mapping[str, Shape]) -> dict[str, str]:
        """Return the placeholders of RULES in a file with arrays of these shapes."""

    def placeholders_for(self, fields: Mapping[str, Any]) -> dict[str, str]:
        """Return the placeholders of RULES with which to write a model with these fields."""

    def describe(
        self, shapes: Mapping[str, Shape], documents: Mapping[str, Json], family: str
    ) -> ImportSpec:
        """Return what a file and the documents beside it state about a model of a family."""

    def documents_for(
        self, fields: Mapping[str, Any], data: Mapping[str, Any], class_names: tuple[str, ...]
    ) -> dict[str, Json]:
        """Return the documents to write beside the weights of a model, by file name."""
