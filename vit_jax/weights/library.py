"""The record of a library: how the weights of one family of models come in from it and go out."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_jax.weights.documents import Json
from vit_jax.weights.files.base import Shape
from vit_jax.weights.import_spec import ImportSpec
from vit_jax.weights.rules import Rule

Shapes = Mapping[str, Shape]  # of the arrays of a file, by name
Documents = Mapping[str, Json]  # by file name
Fields = Mapping[str, Any]  # of a model, or of the data section of its config
Params = dict[str, np.ndarray]  # of our model, by name
# From the fields and parameters of a model to fields and notes; the parameters change in place.
Rewrite = Callable[[Fields, Params], tuple[dict[str, Any], tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class Original:
    """The models of the library itself.

    Attributes:
      package: The Python package that has them.
      outputs: From the path of weights, the fields of our model and torch's images (b, c, h, w), to
        logits (b, k), or to features (b, d) where there are no classes.
      pixels: From the path of weights and uint8 images (b, h, w, 3) of the model's size to what the
        library's own preprocessing makes of their values; None where no document says.
    """

    package: str
    outputs: Callable[[pathlib.Path, Fields, Any], Any]
    pixels: Callable[[pathlib.Path, np.ndarray], np.ndarray | None] | None = None


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
      documents_for: From the fields of a model and `objective.loss`, the data section of its config
        and the names of its classes, which are empty where they are unknown, to the documents
        beside its weights.
      rewrite: Makes of a model that was trained here another that computes the same, where the
        library has that one only; returns its fields, and notes. None where there is none.
      original: The models of the library itself; None where it has no package.
      infer: From the shapes in a file and the documents beside it to the name of our model, as
        `name`, and to those of its fields that the name does not state; empty where the weights are
        of another family. It raises DataError where something is missing for it.
    """

    rules: tuple[Rule, ...]
    file: str
    placeholders: Callable[[Shapes], dict[str, str]]
    placeholders_for: Callable[[Fields], dict[str, str]]
    describe: Callable[[Shapes, Documents, str], ImportSpec]
    documents_for: Callable[[Fields, Fields, tuple[str, ...]], dict[str, Json]]
    rewrite: Rewrite | None = None
    original: Original | None = None
    infer: Callable[[Shapes, Documents], Mapping[str, Any]] | None = None
