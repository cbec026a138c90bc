"""Read and write transformers' `preprocessor_config.json`."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.import_spec import MINUS_ONE_TO_ONE, usual_preprocessing
from vit_jax.weights.library import Documents, Fields

FILE = "preprocessor_config.json"
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers

Size = tuple[int, int]  # height and width

_CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


def _defaults(resample: int, moments: Fields, size: Any, **others: Any) -> dict[str, Any]:
    moments = {f"image_{key}": list(value) for key, value in moments.items()}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    return {
        "do_center_crop": False,
        **steps,
        "resample": resample,
        "size": size,
        **moments,
    } | others


_SHORT = {"shortest_edge": 224}
_CROP = {"do_center_crop": True, "crop_size": 224}
# The defaults of the processors, by the first part of their names.
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": _defaults(2, MINUS_ONE_TO_ONE, 224),
    "DeiT": _defaults(3, MINUS_ONE_TO_ONE, 256, **_CROP),
    "Bit": _defaults(3, _CLIP, _SHORT, **_CROP),
    "CLIP": _defaults(3, _CLIP, _SHORT, **_CROP),
    "ConvNext": _defaults(3, MINUS_ONE_TO_ONE, {"shortest_edge": 384}, crop_pct=224 / 256),
}
PROCESSOR_SUFFIXES = (
    "ImageProcessorFast",
    "ImageProcessorPil",
    "ImageProcessor",
    "FeatureExtractor",
)
SHORTEST_EDGE = ("Bit", "CLIP", "ConvNext")  # processors that read a single number as shorter side
# Steps that we support, or that do not change images with the model's number of channels.
STEPS = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_center_crop",
    "do_convert_rgb",
)


class Preprocessing(NamedTuple):
    """The preprocessing of a model."""

    data: dict[str, Any]  # fields of the data section
    size: Size | None  # of the preprocessed images; None if no document states it
    notes: tuple[str, ...]


def read(
    documents: Documents, usual: Mapping[str, Fields], series: str, processor: str, channels: int
) -> Preprocessing:
    """Return the preprocessing of the document, or the usual one of the series without a document.

    Args:
      documents: The documents beside the weights, by file name.
      usual: The fields to use without a document, by series.
      series: The first part of the name of our model.
      processor: The processor of a document that does not name one: a key of `PROCESSORS`.
      channels: The number of image channels of the model.

    Raises:
      DataError: The document states a step or value that is not supported.
    """
    if FILE not in documents:
        values, notes = usual_preprocessing(usual, series, FILE)
        moments = {key: _match_channels(values[key], channels) for key in ("mean", "std")}
        return Preprocessing({**values, **moments}, None, notes)
    # A null step (`do_*`) is skipped. Any other null stands for the default.
    stated = {k: v for k, v in documents[FILE].items() if v is not None or k.startswith("do_")}
    kind = _find_processor(stated, processor)
    document = {**PROCESSORS[kind], **stated}
    _check_steps(document)
    values = {**_read_moments(document, channels), "interpolation": _read_interpolation(document)}
    if kind == "ConvNext":
        fit, size, notes = _read_convnext_fit(document)
    else:
        fit, size, notes = _read_fit(document, kind)
    return Preprocessing({**values, **fit}, size, notes)


def write(data: Fields) -> Json:
    """Return the `preprocessor_config.json` for a data section."""
    height, width = data["image_size"]
    numbers = {name: number for number, name in RESAMPLE.items()}
    document: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(data["mean"]),
        "image_std": list(data["std"]),
        "do_resize": True,
        "do_convert_rgb": data["channels"] == 3,
        "resample": numbers[data["interpolation"]],
    }
    size = {"height": height, "width": width}
    if data["fit"] == "squash":
        return {
            **document,
            "image_processor_type": "ViTImageProcessor",
            "do_center_crop": False,
            "size": size,
        }
    short = round(max(height, width) / data["crop_fraction"])
    return {
        **document,
        "image_processor_type": "BitImageProcessor",
        "do_center_crop": True,
        "size": {"shortest_edge": short},
        "crop_size": size,
    }


def _find_processor(document: Json, usual: str) -> str:
    """Return the key of the processor in `PROCESSORS`; `usual` if the document names none."""
    name = document.get("image_processor_type", document.get("feature_extractor_type"))
    if name is None:
        return usual
    for ending in PROCESSOR_SUFFIXES:
        if str(name).endswith(ending) and str(name).removesuffix(ending) in PROCESSORS:
            return str(name).removesuffix(ending)
    expected = ", ".join(f"{kind}ImageProcessor" for kind in PROCESSORS)
    problem = f"expected one of {expected}, got {name!r:.60}"
    raise DataError(f"{FILE}: image_processor_type: {problem}")


def _check_steps(document: Json) -> None:
    """Check that the steps are supported.

    Raises:
      DataError: A step is not supported, or the resize is missing.
    """
    for key, value in document.items():
        is_step = key.startswith("do_") or key == "rescale_offset"
        if is_step and key not in STEPS and value:
            raise DataError(f"{FILE}: {key}: this step is not supported; expected false")
    if not document["do_resize"]:
        problem = "expected true, as all images of a run have one size, got false"
        raise DataError(f"{FILE}: do_resize: {problem}")


def _read_moments(document: Json, channels: int) -> dict[str, Any]:
    """Return mean and std for pixels in [0, 1], whatever range the processor rescales to."""
    scale = 1.0  # the processor's value of a pixel of 1.0
    if not document["do_rescale"]:
        scale = 255.0
    else:
        factor = read_key(document, "rescale_factor", float | int, FILE)
        if not 0 < factor < 1e6:
            raise DataError(f"{FILE}: rescale_factor: expected a positive number, got {factor}")
        scale = 1.0 if abs(factor * 255 - 1) < 1e-6 else factor * 255
    if not document["do_normalize"]:
        return {"mean": (0.0,) * channels, "std": (1 / scale,) * channels}
    values = {}
    for key in ("mean", "std"):
        numbers = document[f"image_{key}"]
        numbers = numbers if isinstance(numbers, list) else [numbers] * channels
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            problem = f"expected numbers, got {document[f'image_{key}']!r:.60}"
            raise DataError(f"{FILE}: image_{key}: {problem}")
        if len(numbers) != channels:
            problem = f"expected {channels} numbers, one per channel, got {len(numbers)}"
            raise DataError(f"{FILE}: image_{key}: {problem}")
        values[key] = tuple(float(number) / scale for number in numbers)
    return values


def _read_interpolation(document: Json) -> str:
    number = document["resample"]
    if type(number) is not int or number not in RESAMPLE:
        numbers = ", ".join(f"{number} ({name})" for number, name in RESAMPLE.items())
        raise DataError(f"{FILE}: resample: expected one of {numbers}, got {number!r:.40}")
    return RESAMPLE[number]


def _read_fit(document: Json, kind: str) -> tuple[dict[str, Any], Size, tuple[str, ...]]:
    """Return the fields for resize and crop, the size (height, width) of the result, and notes."""
    sides = _read_size(document, "size", kind in SHORTEST_EDGE)
    if not document["do_center_crop"]:
        if not isinstance(sides, tuple):
            problem = "expected height and width, or do_center_crop"
            raise DataError(f"{FILE}: size: {problem}")
        return {"fit": "squash"}, sides, ()
    stated = _read_size(document, "crop_size", False)
    crop = stated if isinstance(stated, tuple) else (stated, stated)
    short = min(sides) if isinstance(sides, tuple) else sides
    if max(crop) > short:
        problem = f"expected at most the {short} pixels of size, got {crop[0]}x{crop[1]}"
        raise DataError(f"{FILE}: crop_size: {problem}; the border would be black")
    notes = []
    if isinstance(sides, tuple):
        notes.append("its processor resizes to a fixed aspect ratio before the crop; we keep it")
    if crop[0] != crop[1]:
        notes.append("its processor takes a crop of fixed pixels; we take the largest that fits")
    fit = {"fit": "crop", "crop_fraction": _crop_fraction(min(crop), short)}
    return fit, crop, tuple(f"{FILE}: {note}" for note in notes)


def _read_convnext_fit(document: Json) -> tuple[dict[str, Any], Size, tuple[str, ...]]:
    """Do the same as `_read_fit` for ConvNeXT's processor, which crops only below 384 pixels."""
    side = _read_size(document, "size", True)
    share = read_key(document, "crop_pct", float | int, FILE)
    if isinstance(side, tuple) or document["do_center_crop"]:
        raise DataError(f"{FILE}: size: expected shortest_edge, and no do_center_crop")
    if not 0.01 <= share <= 1:
        raise DataError(f"{FILE}: crop_pct: expected a fraction of at most 1, got {share}")
    if side >= 384:
        return {"fit": "squash"}, (side, side), ()
    return (
        {"fit": "crop", "crop_fraction": _crop_fraction(side, int(side / share))},
        (side, side),
        (),
    )


def _read_size(document: Json, key: str, is_shortest: bool) -> Size | int:
    """Return a processor's size: (height, width), or the shorter side only.

    Args:
      document: The document.
      key: The key of the size, which has several forms.
      is_shortest: Whether a single number is the shorter side.

    Raises:
      DataError: The size has none of the supported forms.
    """
    size = document.get(key)
    result: Size | int = 0
    if isinstance(size, Mapping):
        given = {name: value for name, value in size.items() if value is not None}
        if given.keys() == {"height", "width"}:
            size = [given["height"], given["width"]]
        elif given.keys() == {"shortest_edge"}:
            size, is_shortest = given["shortest_edge"], True
    if type(size) is int and size > 0:
        result = size if is_shortest else (size, size)
    elif isinstance(size, list) and [type(side) for side in size] == [int, int] and min(size) > 0:
        result = (size[0], size[1])
    if not result:
        problem = "expected a number, height and width, or shortest_edge"
        raise DataError(f"{FILE}: {key}: {problem}, got {document.get(key)!r:.80}")
    return result


def _crop_fraction(crop: int, short: int) -> float:
    """Return the kept fraction of a side, so that floor(crop / fraction) is the side."""
    fraction = crop / short
    return fraction if math.floor(crop / fraction) == short else math.nextafter(fraction, 0.0)


def _match_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return the values of RGB for another number of channels: their mean for each."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels
