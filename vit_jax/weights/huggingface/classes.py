"""What `config.json` of transformers says about the classes: which head, their names, the loss."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.class_names import keep_apart
from vit_jax.weights.documents import Json
from vit_jax.weights.huggingface.keys import CONFIG
from vit_jax.weights.library import Shapes

HEADS = ("classifier", "cls_classifier")
# The losses that train one probability for each class.
OF_EACH_CLASS = ("sigmoid", "binary")


def find_head(document: Json, architectures: Mapping[str, str], shapes: Shapes) -> str:
    """Return the name of the head of the class token; empty where the model has none.

    Args:
      document: The `config.json`.
      architectures: The classes of transformers that we have, and the head of each.
      shapes: Of the arrays in the file.

    Raises:
      DataError: The document names another class, or a head that the weights do not have.
    """
    present = next((name for name in HEADS if f"{name}.weight" in shapes), "")
    stated = document.get("architectures") or []
    if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
        raise DataError(f"{CONFIG}: architectures: expected a list of names, got {stated!r:.60}")
    for name in stated:
        bare = name.removeprefix("TF").removeprefix("Flax")
        if bare not in architectures:
            problem = f"expected {' or '.join(architectures)}, got {name!r:.60}"
            raise DataError(f"{CONFIG}: architectures: {problem}")
        head = architectures[bare]
        if head != present and not (head and not present and count_labels(document) == 0):
            has = f"has the head {head}" if head else "has no head"
            there = f"the weights have {present}" if present else "the weights have none"
            raise DataError(f"{CONFIG}: architectures: {name} {has}, {there}")
    return present


def count_labels(document: Json) -> int | None:
    """Return the number of classes that a document states, or None."""
    labels = document.get("id2label")
    if isinstance(labels, Mapping):
        return len(labels)
    number = document.get("num_labels")
    return number if type(number) is int else None


def check_count(document: Json, num_classes: int) -> None:
    """Check that a document states as many classes as the head has.

    Raises:
      DataError: It states others.
    """
    labels = document.get("id2label")
    stated = {
        "id2label": len(labels) if isinstance(labels, Mapping) else None,
        "num_labels": document.get("num_labels"),
    }
    for key, number in stated.items():
        if num_classes and number not in (None, num_classes):
            problem = f"expected the {num_classes} classes of the head, got {number!r:.40}"
            raise DataError(f"{CONFIG}: {key}: {problem}")


def read_names(document: Json, num_classes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes, empty where they are made up, and notes.

    Two classes of the same name are kept apart.
    """
    labels = document.get("id2label")
    if not isinstance(labels, Mapping) or not num_classes:
        return (), ()
    if set(labels) != {str(i) for i in range(num_classes)}:
        problem = f"expected the numbers 0 to {num_classes - 1}; the names are left out"
        return (), (f"{CONFIG}: id2label: {problem}",)
    names = tuple(str(labels[str(i)]) for i in range(num_classes))
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        return (), ()
    apart = keep_apart(names)
    renamed = [new for old, new in zip(names, apart, strict=True) if old != new]
    if not renamed:
        return names, ()
    what = f"names that occur twice are kept apart: {', '.join(renamed):.120}"
    return apart, (f"{CONFIG}: id2label: {what}",)


def read_loss(document: Json, num_classes: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the objective that the logits are for, and notes.

    Raises:
      DataError: The outputs are no classes.
    """
    problem = document.get("problem_type")
    if not num_classes:
        return {}, ()
    if problem not in (None, "single_label_classification", "multi_label_classification"):
        expected = "expected single_label_classification or multi_label_classification"
        raise DataError(f"{CONFIG}: problem_type: {expected}, got {problem!r:.60}")
    if problem == "multi_label_classification":
        return {"loss": "sigmoid"}, (f"{CONFIG}: {problem}: every class by itself, loss=sigmoid",)
    if num_classes == 1:
        return {"loss": "sigmoid"}, ("one class: its probability is the sigmoid, loss=sigmoid",)
    return {"loss": "softmax"}, ()


def write_classes(fields: Mapping[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return what a document says about the classes of a model.

    Args:
      fields: Fields of our model, and `objective.loss`.
      class_names: The classes; empty where they are unknown.
    """
    labels = class_names or [f"LABEL_{i}" for i in range(fields["num_classes"])]
    document: dict[str, Any] = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if fields["num_classes"] > 1:
        by_itself = fields.get("objective.loss") in OF_EACH_CLASS
        kind = "multi_label_classification" if by_itself else "single_label_classification"
        document["problem_type"] = kind
    return document
