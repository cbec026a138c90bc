"""Read and write timm's `config.json`: the model, the preprocessing and the classes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.class_names import make_unique
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.import_spec import usual_preprocessing
from vit_jax.weights.library import Documents, Fields
from vit_jax.weights.timm import architectures

CONFIG = "config.json"
FITS = {"center": "crop", "squash": "squash"}


@dataclasses.dataclass(frozen=True)
class Document:
    """A `config.json` of timm.

    Attributes:
      architecture: The name of a model of timm; empty if the document has none.
      named: The arguments that the name stands for; None if there is no name.
      explicit: Arguments that the document states explicitly. They override those of the name.
      num_features: The width of the head's input; 0 if the document does not state it.
      pretrained: The preprocessing and the classes.
    """

    architecture: str
    named: architectures.Architecture | None
    explicit: architectures.Arguments
    num_features: int
    pretrained: Json

    def arguments(self, width: int) -> dict[str, Any]:
        """Return the constructor arguments that the name and the document state.

        Args:
          width: The width of the arrays. The sizes of the name apply only to this width.
        """
        if self.named is None:
            return dict(self.explicit)
        same = width == self.named.sizes["embed_dim"]
        return {**self.named.kind, **(self.named.sizes if same else {}), **self.explicit}


def read(documents: Documents, family: str) -> Document | None:
    """Read the `config.json` beside the weights.

    Args:
      documents: The documents, by file name.
      family: The family of our model: vit or swin.

    Returns:
      The document, or None if there is none of timm.

    Raises:
      DataError: The document contradicts itself, or describes a model of another family.
    """
    document = documents.get(CONFIG)
    if document is None or not document.keys() & {"architecture", "pretrained_cfg"}:
        return None
    # Until 2022 there was one level, with the preprocessing and `labels` beside the architecture.
    pretrained = dict(document.get("pretrained_cfg", document))
    if "labels" in document:
        pretrained["label_names"] = document["labels"]
    pretrained |= {k: document[k] for k in ("num_classes", "label_names") if k in document}
    name = document.get("architecture", pretrained.get("architecture", ""))
    if not isinstance(name, str):
        raise DataError(f"{CONFIG}: architecture: expected a name, got {name!r:.40}")
    named = architectures.find(name) if name else None
    if named and named.family != family:
        problem = f"'{name}' is a {named.family}; give a --model of this family"
        raise DataError(f"{CONFIG}: architecture: {problem}")
    features = document.get("num_features")
    return Document(
        architecture=name,
        named=named,
        explicit=_read_explicit(document, pretrained),
        num_features=features if isinstance(features, int) else 0,
        pretrained=pretrained,
    )


def _read_explicit(document: Json, pretrained: Json) -> dict[str, Any]:
    """Return the arguments that a document states explicitly.

    Raises:
      DataError: Two entries contradict each other.
    """
    given = document.get("model_args") or {}
    if not isinstance(given, Mapping):
        raise DataError(f"{CONFIG}: model_args: expected an object, got {given!r:.40}")
    given = {key: value for key, value in given.items() if value is not None}
    pool = document.get("global_pool")
    if pool and given.setdefault("global_pool", pool) != pool:
        problem = f"model_args has '{given['global_pool']}', the document has '{pool}'"
        raise DataError(f"{CONFIG}: global_pool: {problem}")
    if "num_classes" in pretrained:
        given.setdefault("num_classes", pretrained["num_classes"])
    return given


def read_preprocessing(
    document: Document | None, usual: Mapping[str, Fields], series: str, channels: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the data section, and notes on them.

    Args:
      document: The document beside the weights, or None.
      usual: The fields to use without a document, by series.
      series: The first part of the name of our model.
      channels: The number of image channels, from the arrays.

    Raises:
      DataError: The document is incomplete, or a value has the wrong type.
    """
    if document is None:
        values, notes = usual_preprocessing(usual, series, f"{CONFIG} of timm")
        return _adapt(values, channels), notes
    pretrained = document.pretrained
    where = f"{CONFIG}: pretrained_cfg"
    size = document.explicit.get("img_size", read_key(pretrained, "input_size", list, where)[1:])
    values = {
        "interpolation": read_key(pretrained, "interpolation", str, where),
        "crop_fraction": float(read_key(pretrained, "crop_pct", float | int, where)),
    }
    for key in ("mean", "std"):
        numbers = read_key(pretrained, key, list, where)
        values[key] = tuple(float(number) for number in numbers)
    mode = pretrained.get("crop_mode") or "center"
    values["fit"] = FITS.get(mode, "crop")
    notes = ()
    if mode not in FITS:
        notes = (f"{where}: crop_mode: '{mode}' is unknown; images are centre-cropped",)
    return _adapt(values, channels) | {"image_size": _read_size(size)}, notes


def _read_size(size: Any) -> tuple[int, int]:
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{CONFIG}: input_size, img_size: expected height and width, got {size!r}")
    return sides[0], sides[1]


def _adapt(values: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return the fields for a number of channels. timm averages mean and std over the channels."""
    if channels in (0, 3):
        return dict(values)
    means = {}
    for key in ("mean", "std"):
        numbers = values[key]
        same = numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels
        means[key] = tuple(same)
    return {**values, **means, "channels": channels}


def read_class_names(
    document: Document | None, classes: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a unique name for each class (or an empty tuple), and notes."""
    labels = document.pretrained.get("label_names") if document else None
    if isinstance(labels, Mapping):  # by class index; some indices may be missing
        by_index = {str(index): name for index, name in labels.items()}
        if not by_index.keys() <= {str(i) for i in range(classes)}:
            return (), (f"{CONFIG}: label_names: expected indices below {classes}; ignored",)
        labels = [by_index.get(str(i), str(i)) for i in range(classes)] if by_index else []
    if not isinstance(labels, list) or not labels or not classes:
        return (), ()
    if len(labels) != classes:
        note = f"{CONFIG}: label_names: {len(labels)} names for {classes} classes; ignored"
        return (), (note,)
    return make_unique([str(label) for label in labels]), ()


def write(
    architecture: str,
    arguments: Json,
    num_features: int,
    data: Fields,
    class_names: tuple[str, ...],
) -> dict[str, Json]:
    """Return the documents of an export, by file name.

    Args:
      architecture: The name of timm's model. Without one there is no document.
      arguments: The constructor arguments that make timm's model equal to ours.
      num_features: The width of the head's input.
      data: The data section of our config.
      class_names: The class names; empty if unknown.
    """
    if not architecture:
        return {}
    preprocessing = {
        "input_size": [data["channels"], *data["image_size"]],
        "interpolation": data["interpolation"],
        "crop_pct": data["crop_fraction"],
        "crop_mode": "squash" if data["fit"] == "squash" else "center",
        "mean": list(data["mean"]),
        "std": list(data["std"]),
        "num_classes": arguments["num_classes"],
    }
    document = {
        "architecture": architecture,
        "num_classes": arguments["num_classes"],
        "num_features": num_features,
        "global_pool": arguments.get("global_pool", "token"),
        "model_args": arguments,
        "pretrained_cfg": preprocessing,
        "label_names": list(class_names),
    }
    return {CONFIG: document}
