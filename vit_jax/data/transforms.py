"""What happens to one image on the host: from a record to uint8 pixels of the model's size.

Host transforms are frozen dataclasses called as `transform(image, rng)` on uint8 (h, w, c). The
pixels travel to the device as uint8; `normalize` runs there.
"""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data.sources import Record
from vit_jax.errors import ConfigError, DataError, pick

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MODES = {1: "L", 3: "RGB"}


@runtime_checkable
class Transform(Protocol):
    """A map of one image; deterministic ones do not touch the random generator."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 (h, w, c)."""
        ...


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to a height and width; Pillow's filters are antialiased."""

    size: tuple[int, int]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the size."""
        if image.shape[:2] == self.size:
            return image
        method = INTERPOLATIONS[self.interpolation]
        return _from_pil(_to_pil(image).resize(self.size[::-1], method))


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Rotates, scales and shifts about the centre, each drawn evenly; the outside is black."""

    degrees: float
    scale: float
    shift: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        angle, scale, down, right = rng.uniform(-1, 1, 4)
        height, width = image.shape[:2]
        factor = 1 / (1 + self.scale * scale)
        cos = factor * math.cos(math.radians(self.degrees * angle))
        sin = factor * math.sin(math.radians(self.degrees * angle))
        # Pillow asks where each output pixel comes from.
        x, y = width / 2 + right * self.shift * width, height / 2 + down * self.shift * height
        inverse = (
            *(cos, sin, width / 2 - cos * x - sin * y),
            *(-sin, cos, height / 2 + sin * x - cos * y),
        )
        method = Image.Transform.AFFINE
        bilinear = Image.Resampling.BILINEAR
        return _from_pil(_to_pil(image).transform((width, height), method, inverse, bilinear))


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A record to `{"image": uint8 (h, w, c), "label": int32}`.

    Raises:
      DataError: The label is not a class, or the image cannot be decoded; with the record's id.
    """

    transforms: Sequence[Transform]
    channels: int
    num_classes: int

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Decodes, checks and transforms one record."""
        label = record["label"]
        if not 0 <= label < self.num_classes:
            expected = f"expected a label from 0 to {self.num_classes - 1}"
            raise DataError(f"{record['id']}: {expected}, got {label}")
        image = self._decode(record)
        for transform in self.transforms:
            image = transform(image, rng)
        return {"image": image, "label": np.int32(label)}

    def _decode(self, record: Record) -> np.ndarray:
        if isinstance(record["image"], np.ndarray):
            return record["image"]
        try:
            with Image.open(io.BytesIO(record["image"])) as image:
                return _from_pil(image.convert(MODES[self.channels]))
        except OSError as error:
            raise DataError(f"{record['id']}: not an image that can be decoded: {error}") from error


def check(data: config_lib.Data) -> None:
    """Checks the settings that name a transform.

    Raises:
      ConfigError: An interpolation or a number of channels that there is not.
    """
    pick(INTERPOLATIONS, data.interpolation, "config.data.interpolation")
    if data.channels not in MODES:
        raise ConfigError("config.data.channels", f"expected 1 or 3, got {data.channels}")


def for_training(data: config_lib.Data, num_classes: int) -> Pipeline:
    """Returns the random pipeline of the training split."""
    pipeline = for_evaluation(data, num_classes)
    affine = data.affine
    if not (affine.degrees or affine.scale or affine.shift):
        return pipeline
    random = RandomAffine(affine.degrees, affine.scale, affine.shift)
    return dataclasses.replace(pipeline, transforms=(*pipeline.transforms, random))


def for_evaluation(data: config_lib.Data, num_classes: int) -> Pipeline:
    """Returns the deterministic pipeline of the other splits."""
    resize = Resize(data.image_size, data.interpolation)
    return Pipeline((resize,), data.channels, num_classes)


def normalize(
    images: UInt8[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w c"]:
    """Scales pixels to 0..1, subtracts the mean, divides by the standard deviation; on device."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def _to_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _from_pil(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
