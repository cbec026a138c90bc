"""The record of a library: how to import and export the weights of one family of models."""

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
Fields = Mapping[str, Any]  # fields of a model, or of the data section of its config, by path
Params = dict[str, np.ndarray]  # parameters of our model, by name
# Maps the fields and parameters of a model to new fields and notes, and changes the parameters in
# place.
Rewrite = Callable[[Fields, Params], tuple[dict[str, Any], tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class Original:
    """The library's own implementation, which `--check` compares with.

    Attributes:
      package: The Python package to import.
      outputs: Maps the path of the weights, the fields of our model and torch images (b, c, h, w)
        to logits (b, k), or to features (b, d) if there are no classes.
      pixels: Maps the path of the weights and uint8 images (b, h, w, 3) at the model's size to the
        pixels of the library's own preprocessing, or to None if no document states it.
    """

    package: str
    outputs: Callable[[pathlib.Path, Fields, Any], Any]
    pixels: Callable[[pathlib.Path, np.ndarray], np.ndarray | None] | None = None


@dataclasses.dataclass(frozen=True)
class Library:
    """How to convert the weights of one family of models from and to a library.

    Attributes:
      rules: The rename rules between the library's names and ours.
      file: The name of the weight file in an exported folder.
      placeholders: Maps the shapes of a file to the values of the placeholders in its names.
      placeholders_for: Maps the fields of a model to the placeholders of an export.
      describe: Maps the shapes of a file, the documents beside it and the series of our model (the
        first part of its name, such as `deit3`) to an `ImportSpec`. The series decides on the
        preprocessing if no document states it.
      documents_for: Maps the fields of a model (with `objective.loss`), the data section of its
        config and its class names (empty if unknown) to the documents of an export.
      rewrite: Turns a model that the library does not have into an equivalent one that it has.
        Returns the new fields, and notes. None if the library needs no such step.
      original: The library's own implementation; None if there is no package to compare with.
      infer: Maps the shapes of a file and the documents beside it to the name of our model (`name`)
        and the fields that differ from that name's preset. Returns an empty mapping for weights of
        another family. Raises `DataError` if the documents do not suffice. None if the library has
        no documents.
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
