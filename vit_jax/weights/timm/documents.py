"""What `config.json` of timm says about images and classes, read and written."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.import_spec import find_usual
from vit_jax.weights.library import Documents, Fields

CONFIG = "config.json"
FITS = {"center": "crop", "squash": "squash"}


def read_preprocessing(
    documents: Documents, usual: Mapping[str, Fields], series: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the data section, and notes on them.

    Args:
      documents: The documents beside the weights, by file name.
      usual: The fields where no document states them, by series.
      series: What the name of our model begins with.

    Raises:
      DataError: The document is incomplete, or a value in it is of the wrong type.
    """
    where = f"{CONFIG}: pretrained_cfg"
    pretrained = documents.get(CONFIG, {}).get("pretrained_cfg")
    if not isinstance(pretrained, Mapping):
        return find_usual(usual, series, f"{CONFIG} of timm")
    _, height, width = (*read_key(pretrained, "input_size", list, where), 0, 0, 0)[:3]
    values = {
        "image_size": (height, width),
        "interpolation": read_key(pretrained, "interpolation", str, where),
        "crop_fraction": float(read_key(pretrained, "crop_pct", float | int, where)),
        "fit": FITS.get(pretrained.get("crop_mode", "center"), "crop"),
    }
    for key in ("mean", "std"):
        numbers = read_key(pretrained, key, list, where)
        values[key] = tuple(float(number) for number in numbers)
    return values, ()


def read_class_names(documents: Documents, classes: int) -> tuple[str, ...]:
    """Return the names where there is a different one for each class."""
    labels = documents.get(CONFIG, {}).get("label_names")
    names = tuple(map(str, labels)) if isinstance(labels, list) else ()
    return names if len(set(names)) == len(names) == classes else ()


def write(
    architecture: str, arguments: Json, fields: Fields, data: Fields, class_names: tuple[str, ...]
) -> dict[str, Json]:
    """Return the documents to write beside the weights of a model, by file name.

    Args:
      architecture: The name of timm's model; empty where there is none, and then no document.
      arguments: Those with which it is ours.
      fields: Fields of our model.
      data: The data section of its config.
      class_names: The classes; empty where they are unknown.
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
        "num_classes": fields["num_classes"],
    }
    document = {
        "architecture": architecture,
        "num_classes": fields["num_classes"],
        "model_args": arguments,
        "pretrained_cfg": preprocessing,
        "label_names": list(class_names),
    }
    return {CONFIG: document}
