"""What `preprocessor_config.json` of transformers says about images, read and written."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.import_spec import find_usual
from vit_jax.weights.library import Documents, Fields

FILE = "preprocessor_config.json"
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def read(
    documents: Documents, usual: Mapping[str, Fields], series: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the data section, and notes on those that are only approximate.

    Args:
      documents: The documents beside the weights, by file name.
      usual: The fields where no document states them, by series.
      series: What the name of our model begins with.

    Raises:
      DataError: The document asks for what we do not have.
    """
    if FILE not in documents:
        return find_usual(usual, series, FILE)
    document = documents[FILE]
    _check_rescaling(document)
    values = {**_read_normalization(document), "interpolation": _read_interpolation(document)}
    size = document.get("size")
    short = _short_side(size)
    crop = _short_side(document.get("crop_size"))
    if not document.get("do_center_crop") or not (short and crop):
        return {**values, "fit": "squash"}, ()
    values |= {"fit": "crop", "crop_fraction": min(1.0, crop / short)}
    if isinstance(size, Mapping) and "shortest_edge" not in size:
        note = "its processor squashes images that are not square before the crop; here not"
        return values, (f"{FILE}: {note}",)
    return values, ()


def write(data: Fields) -> Json:
    """Return the document for a data section."""
    height, width = data["image_size"]
    numbers = {name: number for number, name in RESAMPLE.items()}
    document: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
        "do_resize": True,
        "resample": numbers[data["interpolation"]],
    }
    size = {"height": height, "width": width}
    if data["fit"] == "squash":
        return {**document, "image_processor_type": "ViTImageProcessor", "size": size}
    short = round(min(height, width) / data["crop_fraction"])
    return {
        **document,
        "image_processor_type": "BitImageProcessor",
        "do_center_crop": True,
        "size": {"shortest_edge": short},
        "crop_size": size,
    }


def _check_rescaling(document: Json) -> None:
    factor = document.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float | int) or abs(factor * 255 - 1) > 1e-6:
        raise DataError(f"{FILE}: rescale_factor: expected 1/255, got {factor!r:.40}")


def _read_normalization(document: Json) -> dict[str, Any]:
    if not document.get("do_normalize", True):
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    values = {}
    for key in ("mean", "std"):
        numbers = read_key(document, f"image_{key}", list, FILE)
        values[key] = tuple(float(number) for number in numbers)
    return values


def _read_interpolation(document: Json) -> str:
    number = document.get("resample", 2)
    if number not in RESAMPLE:
        numbers = ", ".join(map(str, RESAMPLE))
        raise DataError(f"{FILE}: resample: expected one of {numbers}, got {number!r:.40}")
    return RESAMPLE[number]


def _short_side(size: Any) -> int:
    """Return the shorter side of a processor's size, which comes in three forms; 0 is none."""
    if isinstance(size, Mapping):
        sides = [size[key] for key in ("shortest_edge", "height", "width") if key in size]
        size = min((side for side in sides if isinstance(side, int)), default=0)
    return size if isinstance(size, int) else 0
