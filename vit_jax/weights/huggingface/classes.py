"""Read and write the classes in transformers' `config.json`: the head, the names and the loss."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.class_names import make_unique
from vit_jax.weights.documents import Json
from vit_jax.weights.huggingface.keys import CONFIG
from vit_jax.weights.library import Shapes

HEADS = ("classifier", "cls_classifier")
# Losses with an independent probability for each class.
MULTI_LABEL_LOSSES = ("sigmoid", "binary")


def find_head(document: Json, architectures: Mapping[str, str], shapes: Shapes) -> str:
    """Return the name of the head of the class token; empty if the model has none.

    Args:
      document: The `config.json`.
      architectures: The supported classes of transformers, and the name of the head of each.
      shapes: Shapes of the arrays in the file, by name.

    Raises:
      DataError: The document names another class, or one whose head does not match the weights.
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
            actual = f"the weights have {present}" if present else "the weights have none"
            raise DataError(f"{CONFIG}: architectures: {name} {has}, {actual}")
    return present


def count_labels(document: Json) -> int | None:
    """Return the number of classes that a document states; None if it does not."""
    labels = document.get("id2label")
    if isinstance(labels, Mapping):
        return len(labels)
    number = document.get("num_labels")
    return number if type(number) is int else None


def check_count(document: Json, num_classes: int) -> None:
    """Check that a document does not state another number of classes than the head has.

    Raises:
      DataError: The numbers differ.
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
    """Read the class names, and make them unique.

    Returns:
      The names, and notes. The names are empty if the document has none, or only transformers'
      placeholders such as `LABEL_0`.
    """
    labels = document.get("id2label")
    if not isinstance(labels, Mapping) or not num_classes:
        return (), ()
    if set(labels) != {str(i) for i in range(num_classes)}:
        problem = f"expected the keys 0 to {num_classes - 1}; the names are ignored"
        return (), (f"{CONFIG}: id2label: {problem}",)
    names = tuple(str(labels[str(i)]) for i in range(num_classes))
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        return (), ()
    unique = make_unique(names)
    renamed = [new for old, new in zip(names, unique, strict=True) if old != new]
    if not renamed:
        return names, ()
    change = f"repeated names were made unique: {', '.join(renamed):.120}"
    return unique, (f"{CONFIG}: id2label: {change}",)


def read_loss(document: Json, num_classes: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the objective section (the loss), and notes.

    Raises:
      DataError: The outputs are not classes.
    """
    problem = document.get("problem_type")
    if not num_classes:
        return {}, ()
    if problem not in (None, "single_label_classification", "multi_label_classification"):
        expected = "expected single_label_classification or multi_label_classification"
        raise DataError(f"{CONFIG}: problem_type: {expected}, got {problem!r:.60}")
    if problem == "multi_label_classification":
        note = f"{CONFIG}: {problem}: independent probabilities, loss=sigmoid"
        return {"loss": "sigmoid"}, (note,)
    if num_classes == 1:
        return {"loss": "sigmoid"}, ("one class: its probability is a sigmoid, loss=sigmoid",)
    return {"loss": "softmax"}, ()


def write_classes(fields: Mapping[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the entries of `config.json` about the classes of a model.

    Args:
      fields: The fields of our model, by path, and `objective.loss`.
      class_names: The class names; empty if unknown.
    """
    labels = class_names or [f"LABEL_{i}" for i in range(fields["num_classes"])]
    document: dict[str, Any] = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if fields["num_classes"] > 1:
        is_multi_label = fields.get("objective.loss") in MULTI_LABEL_LOSSES
        kind = "multi_label_classification" if is_multi_label else "single_label_classification"
        document["problem_type"] = kind
    return document
