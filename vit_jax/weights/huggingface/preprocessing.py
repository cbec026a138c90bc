"""What `preprocessor_config.json` of transformers says about images, read and written."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vit_jax.errors import DataError
from vit_jax.weights.documents import Json, read_key
from vit_jax.weights.import_spec import HALF, find_usual
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
# What processors do where their document does not say, by the beginning of their names.
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": _defaults(2, HALF, 224),
    "DeiT": _defaults(3, HALF, 256, **_CROP),
    "Bit": _defaults(3, _CLIP, _SHORT, **_CROP),
    "CLIP": _defaults(3, _CLIP, _SHORT, **_CROP),
    "ConvNext": _defaults(3, HALF, {"shortest_edge": 384}, crop_pct=224 / 256),
}
ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
SHORTEST_EDGE = ("Bit", "CLIP", "ConvNext")  # processors whose single number is the shorter side
# Steps that we take too, or that change no pixel of an image with the model's channels.
STEPS = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_center_crop",
    "do_convert_rgb",
)


class Preprocessing(NamedTuple):
    """What becomes of an image."""

    data: dict[str, Any]  # fields of the data section
    size: Size | None  # of the images that come out; None where no document states it
    notes: tuple[str, ...]


def read(
    documents: Documents, usual: Mapping[str, Fields], series: str, processor: str, channels: int
) -> Preprocessing:
    """Return what the document says, or what is usual where there is none.

    Args:
      documents: The documents beside the weights, by file name.
      usual: The fields where no document states them, by series.
      series: What the name of our model begins with.
      processor: What reads a document without a name of a processor, one of PROCESSORS.
      channels: Of the model's images.

    Raises:
      DataError: The document asks for what we do not have.
    """
    if FILE not in documents:
        values, notes = find_usual(usual, series, FILE)
        moments = {key: _repeat(values[key], channels) for key in ("mean", "std")}
        return Preprocessing({**values, **moments}, None, notes)
    # A step that is null is left out; all else that is null is the default.
    stated = {k: v for k, v in documents[FILE].items() if v is not None or k.startswith("do_")}
    kind = _find_processor(stated, processor)
    document = {**PROCESSORS[kind], **stated}
    _check_steps(document)
    values = {**_read_moments(document, channels), "interpolation": _read_interpolation(document)}
    if kind == "ConvNext":
        fit, size, notes = _read_crop_share(document)
    else:
        fit, size, notes = _read_fit(document, kind)
    return Preprocessing({**values, **fit}, size, notes)


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
    """Return the beginning of the name of the processor, or the usual one where there is none."""
    name = document.get("image_processor_type", document.get("feature_extractor_type"))
    if name is None:
        return usual
    for ending in ENDINGS:
        if str(name).endswith(ending) and str(name).removesuffix(ending) in PROCESSORS:
            return str(name).removesuffix(ending)
    expected = ", ".join(f"{kind}ImageProcessor" for kind in PROCESSORS)
    problem = f"expected one of {expected}, got {name!r:.60}"
    raise DataError(f"{FILE}: image_processor_type: {problem}")


def _check_steps(document: Json) -> None:
    """Check that the steps are ours.

    Raises:
      DataError: One is not, or one that the model needs is left out.
    """
    for key, value in document.items():
        is_step = key.startswith("do_") or key == "rescale_offset"
        if is_step and key not in STEPS and value:
            raise DataError(f"{FILE}: {key}: there is no such step here; expected false")
    if not document["do_resize"]:
        problem = "expected true, as a run takes images of one size, got false"
        raise DataError(f"{FILE}: do_resize: {problem}")


def _read_moments(document: Json, channels: int) -> dict[str, Any]:
    """Return mean and standard deviation for pixels in 0..1, whatever range the model takes."""
    scale = 1.0  # of pixels in 0..1
    if not document["do_rescale"]:
        scale = 255.0
    else:
        factor = read_key(document, "rescale_factor", float | int, FILE)
        if not 0 < factor < 1e6:
            raise DataError(f"{FILE}: rescale_factor: expected a number above 0, got {factor}")
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
            problem = f"expected {channels} numbers, as many as channels, got {len(numbers)}"
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
    """Return how an image is brought to the model's size, that size, and notes."""
    sides = _read_size(document, "size", kind in SHORTEST_EDGE)
    if not document["do_center_crop"]:
        if not isinstance(sides, tuple):
            problem = "images of any shape need do_center_crop, or a size of height and width"
            raise DataError(f"{FILE}: size: {problem}")
        return {"fit": "squash"}, sides, ()
    stated = _read_size(document, "crop_size", False)
    crop = stated if isinstance(stated, tuple) else (stated, stated)
    short = min(sides) if isinstance(sides, tuple) else sides
    if max(crop) > short:
        problem = f"expected at most the {short} pixels of size, got {crop[0]}x{crop[1]}"
        raise DataError(f"{FILE}: crop_size: {problem}; the rest would be black")
    notes = []
    if isinstance(sides, tuple):
        notes.append("its processor squashes images that are not square before the crop; here not")
    if crop[0] != crop[1]:
        notes.append(
            "its processor crops from the same image whatever its shape; here as wide as fits"
        )
    fit = {"fit": "crop", "crop_fraction": _share(min(crop), short)}
    return fit, crop, tuple(f"{FILE}: {note}" for note in notes)


def _read_crop_share(document: Json) -> tuple[dict[str, Any], Size, tuple[str, ...]]:
    """Return the same for ConvNeXT's processor, which crops for small sizes only."""
    side = _read_size(document, "size", True)
    share = read_key(document, "crop_pct", float | int, FILE)
    if isinstance(side, tuple) or document["do_center_crop"]:
        raise DataError(f"{FILE}: size: expected shortest_edge, and no do_center_crop")
    if not 0.01 <= share <= 1:
        raise DataError(f"{FILE}: crop_pct: expected a share up to 1, got {share}")
    if side >= 384:
        return {"fit": "squash"}, (side, side), ()
    return {"fit": "crop", "crop_fraction": _share(side, int(side / share))}, (side, side), ()


def _read_size(document: Json, key: str, is_shortest: bool) -> Size | int:
    """Return height and width of a processor's size, or its shorter side only.

    Args:
      document: The document.
      key: The size there, which comes in several forms.
      is_shortest: Whether a single number is the shorter side.

    Raises:
      DataError: It is none of them.
    """
    size = document.get(key)
    found: Size | int = 0
    if isinstance(size, Mapping):
        given = {name: value for name, value in size.items() if value is not None}
        if given.keys() == {"height", "width"}:
            size = [given["height"], given["width"]]
        elif given.keys() == {"shortest_edge"}:
            size, is_shortest = given["shortest_edge"], True
    if type(size) is int and size > 0:
        found = size if is_shortest else (size, size)
    elif isinstance(size, list) and [type(side) for side in size] == [int, int] and min(size) > 0:
        found = (size[0], size[1])
    if not found:
        problem = "expected a number, height and width, or shortest_edge"
        raise DataError(f"{FILE}: {key}: {problem}, got {document.get(key)!r:.80}")
    return found


def _share(crop: int, short: int) -> float:
    """Return the share of a side that a crop keeps, from which the side comes out exactly."""
    share = crop / short
    return share if math.floor(crop / share) == short else math.nextafter(share, 0.0)


def _repeat(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return values of red, green and blue for another number of channels: their mean."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels
