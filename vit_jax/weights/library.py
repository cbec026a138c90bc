"""The record of a library: how the weights of one family of models come in from it and go out."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.weights.documents import Json
from vit_jax.weights.files.base import Shape
from vit_jax.weights.import_spec import ImportSpec
from vit_jax.weights.rules import Rule

Shapes = Mapping[str, Shape]  # of the arrays of a file, by name
Documents = Mapping[str, Json]  # by file name
Fields = Mapping[str, Any]  # of a model, or of the data section of its config


@dataclasses.dataclass(frozen=True)
class Original:
    """The models of the library itself.

    Attributes:
      package: The Python package that has them.
      outputs: From the path of weights, the fields of our model and torch's images (b, c, h, w), to
        logits (b, k), or to features (b, d) where there are no classes.
    """

    package: str
    outputs: Callable[[pathlib.Path, Fields, Any], Any]


@dataclasses.dataclass(frozen=True)
class Library:
    """What there is to know about a library's weights of a family.

    Attributes:
      rules: The correspondence of its names and ours.
      file: The name of its weight file in a folder.
      placeholders: From the shapes in a file to the placeholders of the rules there.
      placeholders_for: From the fields of a model to the placeholders with which it is written.
      describe: From the shapes in a file, the documents beside it and what the name of our model
        begins with, such as `deit3`, to what they state. The name says what preprocessing is usual,
        where no document states it.
      documents_for: From the fields of a model, the data section of its config and the names of its
        classes, which are empty where they are unknown, to the documents beside its weights.
      original: The models of the library itself; None where it has no package.
    """

    rules: tuple[Rule, ...]
    file: str
    placeholders: Callable[[Shapes], dict[str, str]]
    placeholders_for: Callable[[Fields], dict[str, str]]
    describe: Callable[[Shapes, Documents, str], ImportSpec]
    documents_for: Callable[[Fields, Fields, tuple[str, ...]], dict[str, Json]]
    original: Original | None = None
