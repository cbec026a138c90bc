"""What happens to one image on the host: from a record's image to uint8 pixels of the model's size.

Host transforms are frozen dataclasses called as `transform(image, rng)` on uint8 (h, w, c). The
pixels travel to the device as uint8; `normalize` runs there.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data import images, policies
from vit_jax.data.operations import join, split
from vit_jax.errors import ConfigError, pick

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


@runtime_checkable
class Transform(Protocol):
    """A map of one image; deterministic ones do not touch the random generator."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 (h, w, c)."""
        ...


@dataclasses.dataclass(frozen=True)
class Squash:
    """Resizes to a height and width, whatever the shape of the image."""

    size: tuple[int, int]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the size."""
        return _resize(image, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Resizes until the size divided by the fraction is just covered, and cuts out the centre.

    Sizes and offsets are rounded as torchvision's `Resize` and `CenterCrop` round them, so that
    published weights see the pixels they were evaluated with. Nothing but the crop is computed.
    """

    size: tuple[int, int]
    fraction: float
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the size."""
        sides, resized = image.shape[:2], _covering(image, self.size, self.fraction)
        spans = []
        for side, whole, crop in zip(sides, resized, self.size, strict=True):
            start = round((whole - crop) / 2)
            spans.append((start * side / whole, (start + crop) * side / whole))
        (top, bottom), (left, right) = spans
        return _resize(image, self.size, self.interpolation, (left, top, right, bottom))


# How an image is brought to the model's size, for evaluation.
FITS: dict[str, Callable[[tuple[int, int], float, str], Transform]] = {
    "crop": CentreCrop,
    "squash": lambda size, fraction, interpolation: Squash(size, interpolation),
}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a random part, and resizes it ("Inception crop", Szegedy et al. 2015).

    The share of the area is drawn evenly; the shape, relative to that of the size, from 3/4 to 4/3
    evenly in its logarithm. After ten draws that do not fit, the largest centred part is taken.
    """

    size: tuple[int, int]
    area: tuple[float, float]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the size."""
        height, width = image.shape[:2]
        shape = self.size[1] / self.size[0]
        least, most = self.area
        for _ in range(10):
            area = height * width * rng.uniform(least, most)
            ratio = shape * math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < crop_height <= height and 0 < crop_width <= width:
                top = int(rng.integers(height - crop_height + 1))
                left = int(rng.integers(width - crop_width + 1))
                part = image[top : top + crop_height, left : left + crop_width]
                return _resize(part, self.size, self.interpolation)
        return CentreCrop(self.size, 1.0, self.interpolation)(image, rng)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Resizes until the size divided by the fraction is just covered, and cuts out a random part.

    With a fraction below 1, big_vision's `resize_small` and `random_crop`; with 1 and padding,
    which mirrors the edge, the simple random crop of DeiT III (Touvron et al. 2022, section 3.3).
    """

    size: tuple[int, int]
    fraction: float
    interpolation: str
    padding: int = 0  # pixels on each side

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the size."""
        image = _resize(image, _covering(image, self.size, self.fraction), self.interpolation)
        if self.padding:
            # No image can be mirrored by more than it has.
            pads = [(min(self.padding, side - 1),) * 2 for side in image.shape[:2]]
            image = np.pad(image, [*pads, (0, 0)], mode="reflect")
        top, left = (
            int(rng.integers(side - crop + 1))
            for side, crop in zip(image.shape[:2], self.size, strict=True)
        )
        return image[top : top + self.size[0], left : left + self.size[1]]


# How a training image is brought to the model's size; `fit` is as for evaluation.
CROPS: dict[str, Callable[[config_lib.Data], Transform]] = {
    "fit": lambda data: FITS[data.fit](data.image_size, data.crop_fraction, data.interpolation),
    "inception": lambda data: RandomResizedCrop(
        data.image_size, data.crop_area, data.interpolation
    ),
    "simple": lambda data: RandomCrop(data.image_size, 1.0, data.interpolation, padding=4),
    "random": lambda data: RandomCrop(data.image_size, data.crop_fraction, data.interpolation),
}


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors every other image, left to right."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 of the same size."""
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


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
        method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return join(
            [band.transform((width, height), method, inverse, bilinear) for band in split(image)]
        )


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The image of a record to uint8 pixels (h, w, c) of the model's size."""

    transforms: Sequence[Transform]
    channels: int
    background: tuple[int, ...]
    max_pixels: int

    def decode(self, image: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """Returns the pixels of the image of a record; pixels stay as they are.

        Raises:
          UnreadableError: The file is no readable image, or the pixels have not the channels.
        """
        if isinstance(image, Image.Image):
            return images.to_pixels(image, self.channels, self.background)
        if isinstance(image, bytes):
            return images.decode(image, self.channels, self.background, self.max_pixels)
        if image.ndim != 3 or image.shape[-1] != self.channels or image.dtype != np.uint8:
            found = f"{image.dtype} {image.shape}"
            expected = f"expected uint8 (height, width, {self.channels})"
            raise images.UnreadableError(f"{expected} by config.data.channels, got {found}")
        return image

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Transforms the pixels."""
        for transform in self.transforms:
            pixels = transform(pixels, rng)
        return pixels


def check(data: config_lib.Data) -> None:
    """Checks the settings that name a transform, and those that belong together.

    Raises:
      ConfigError: One is not there, or not possible.
    """
    pick(INTERPOLATIONS, data.interpolation, "config.data.interpolation")
    pick(FITS, data.fit, "config.data.fit")
    pick(CROPS, data.crop, "config.data.crop")
    if data.augment:
        policies.parse(data.augment)
    if data.root and data.channels not in images.MODES:
        raise ConfigError(
            "config.data.channels", f"image files have 1 to 4 channels, got {data.channels}"
        )
    if data.crop_area[0] > data.crop_area[1]:
        raise ConfigError("config.data.crop_area", f"expected (least, most), got {data.crop_area}")
    if len(data.background) != 3:
        raise ConfigError("config.data.background", "expected red, green and blue, 0 to 255")


def for_training(data: config_lib.Data) -> Pipeline:
    """Returns the random pipeline of the training split."""
    transforms = [CROPS[data.crop](data)]
    if data.flip:
        transforms.append(RandomFlip())
    if data.augment:
        mean = tuple(min(255, max(0, round(255 * value))) for value in data.mean)
        transforms.append(policies.parse(data.augment, mean))
    if data.color_jitter:
        transforms.append(policies.ColorJitter(data.color_jitter))
    affine = data.affine
    if affine.degrees or affine.scale or affine.shift:
        transforms.append(RandomAffine(affine.degrees, affine.scale, affine.shift))
    return Pipeline(tuple(transforms), data.channels, data.background, data.max_pixels)


def for_evaluation(data: config_lib.Data) -> Pipeline:
    """Returns the deterministic pipeline of the other splits."""
    fit = FITS[data.fit](data.image_size, data.crop_fraction, data.interpolation)
    return Pipeline((fit,), data.channels, data.background, data.max_pixels)


def normalize(
    images: UInt8[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w c"]:
    """Scales pixels to 0..1, subtracts the mean, divides by the standard deviation; on device."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def _resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, box: Box | None = None
) -> np.ndarray:
    """Resizes a part of an image; Pillow's filters are antialiased, and see beyond the part."""
    height, width = image.shape[:2]
    if size == (height, width) and box in (None, (0, 0, width, height)):
        return image
    method = INTERPOLATIONS[interpolation]
    return join([band.resize(size[::-1], method, box) for band in split(image)])


def _covering(image: np.ndarray, size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Returns the size of the image when the size divided by the fraction is just covered."""
    sides = image.shape[:2]
    targets = [math.floor(side / fraction) for side in size]
    short = 0 if targets[0] * sides[1] >= targets[1] * sides[0] else 1
    height, width = (targets[short] * side // sides[short] for side in sides)
    return height, width
