"""Transforms of one image on the host: from a record to uint8 pixels of the model's size.

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
from vit_jax.data.resizing import FILTERS, covering, resize, resize_part
from vit_jax.errors import ConfigError, pick


@runtime_checkable
class Transform(Protocol):
    """A map of one image; deterministic ones do not use the random generator."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (h, w, c)."""
        ...


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to a height and width, whatever the aspect ratio of the image."""

    size: tuple[int, int]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (h, w, c) of the given size."""
        return resize(image, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Resizes until `size / fraction` is just covered, and crops the centre.

    Sizes and offsets are rounded as torchvision's `Resize` and `CenterCrop` round them, so that
    published weights get the pixels they were evaluated with. Only the crop is computed.
    """

    size: tuple[int, int]
    fraction: float
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (h, w, c) of the given size."""
        resized = covering(image, self.size, self.fraction)
        spans = []
        for side, whole, crop in zip(image.shape[:2], resized, self.size, strict=True):
            start = round((whole - crop) / 2)
            spans.append((start * side / whole, (start + crop) * side / whole))
        (top, bottom), (left, right) = spans
        return resize(image, self.size, self.interpolation, (left, top, right, bottom))


# How an image is brought to the model's size for evaluation: the values of `config.data.fit`.
FITS: dict[str, Callable[[tuple[int, int], float, str], Transform]] = {
    "crop": CentreCrop,
    "squash": lambda size, fraction, interpolation: Resize(size, interpolation),
}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Crops a random part of the image, and resizes it ("Inception crop", Szegedy et al. 2015).

    The fraction of the area is sampled uniformly from `area`; the aspect ratio, relative to that of
    `size`, log-uniformly from 3/4 to 4/3. After ten samples that do not fit, the largest centred
    part is taken.
    """

    size: tuple[int, int]
    area: tuple[float, float]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (h, w, c) of the given size."""
        height, width = image.shape[:2]
        aspect_ratio = self.size[1] / self.size[0]
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            ratio = aspect_ratio * math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            crop_height = round(math.sqrt(area / ratio))
            crop_width = round(math.sqrt(area * ratio))
            if 0 < crop_height <= height and 0 < crop_width <= width:
                top = int(rng.integers(height - crop_height + 1))
                left = int(rng.integers(width - crop_width + 1))
                crop = image[top : top + crop_height, left : left + crop_width]
                return resize(crop, self.size, self.interpolation)
        return CentreCrop(self.size, 1.0, self.interpolation)(image, rng)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Resizes until `size / fraction` is just covered, and crops a random part.

    With a fraction below 1, big_vision's `resize_small` and `random_crop`; with 1 and padding,
    which mirrors the edge, the simple random crop of DeiT III (Touvron et al. 2022, section 3.3).
    """

    size: tuple[int, int]
    fraction: float
    interpolation: str
    padding: int = 0  # pixels on each side

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 (h, w, c) of the given size."""
        whole = covering(image, self.size, self.fraction)
        rows, columns = (
            self._sample(side, crop, rng) for side, crop in zip(whole, self.size, strict=True)
        )
        top, left = int(rows.min()), int(columns.min())
        spans = ((top, int(rows.max()) + 1), (left, int(columns.max()) + 1))
        part = resize_part(image, whole, spans, self.interpolation)
        return part[np.ix_(rows - top, columns - left)]

    def _sample(self, side: int, crop: int, rng: np.random.Generator) -> np.ndarray:
        """Return the rows or columns of the resized image that the crop has."""
        padding = min(self.padding, side - 1)  # reflection cannot add more than the image has
        start = int(rng.integers(side + 2 * padding - crop + 1)) - padding
        mirrored = np.abs(np.arange(start, start + crop))
        return np.minimum(mirrored, 2 * (side - 1) - mirrored)


# How a training image is brought to the model's size: the values of `config.data.crop`, of which
# `fit` is as for evaluation.
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
    """Mirrors an image left to right with probability 0.5."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 of the same shape."""
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Rotates, scales and shifts about the centre; pixels from outside the image are black.

    Each amount is sampled uniformly from -v to v.
    """

    degrees: float
    scale: float  # added to a factor of 1
    shift: float  # fraction of the height and of the width

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uint8 of the same shape."""
        angle, scale, down, right = rng.uniform(-1, 1, 4)
        height, width = image.shape[:2]
        factor = 1 / (1 + self.scale * scale)
        cos = factor * math.cos(math.radians(self.degrees * angle))
        sin = factor * math.sin(math.radians(self.degrees * angle))
        # Where the centre of the image goes; Pillow wants the inverse, from output to input.
        x = width / 2 + right * self.shift * width
        y = height / 2 + down * self.shift * height
        offset_x = width / 2 - cos * x - sin * y
        offset_y = height / 2 + sin * x - cos * y
        inverse = (cos, sin, offset_x, -sin, cos, offset_y)
        affine = Image.Transform.AFFINE
        bilinear = Image.Resampling.BILINEAR
        return join(
            [band.transform((width, height), affine, inverse, bilinear) for band in split(image)]
        )


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """From the image of a record to uint8 pixels (h, w, c) of the model's size."""

    transforms: Sequence[Transform]
    channels: int
    background: tuple[int, ...]
    max_pixels: int

    def decode(self, image: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """Return the pixels of the image of a record, uint8 (h, w, c); an array is unchanged.

        Raises:
          UnreadableError: The file is not a readable image, or an array has the wrong dtype or
            number of channels.
        """
        if isinstance(image, Image.Image):
            return images.to_pixels(image, self.channels, self.background)
        if isinstance(image, bytes):
            return images.decode(image, self.channels, self.background, self.max_pixels)
        if image.ndim != 3 or image.shape[-1] != self.channels or image.dtype != np.uint8:
            expected = f"expected uint8 (height, width, {self.channels}) by config.data.channels"
            raise images.UnreadableError(f"{expected}, got {image.dtype} {image.shape}")
        return image

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed pixels, uint8 (h, w, c) of the model's size."""
        for transform in self.transforms:
            pixels = transform(pixels, rng)
        return pixels


def check(data: config_lib.Data) -> None:
    """Check the settings that name a transform, and those that depend on each other.

    Raises:
      ConfigError: A name is unknown, or a value is impossible.
    """
    pick(FILTERS, data.interpolation, "config.data.interpolation")
    pick(FITS, data.fit, "config.data.fit")
    pick(CROPS, data.crop, "config.data.crop")
    if data.augment:
        policies.parse_policy(data.augment)
    if data.root and data.channels not in images.MODES:
        raise ConfigError(
            "config.data.channels", f"image files have 1 to 4 channels, got {data.channels}"
        )
    if data.crop_area[0] > data.crop_area[1]:
        raise ConfigError("config.data.crop_area", f"expected (least, most), got {data.crop_area}")
    if len(data.background) != 3:
        raise ConfigError("config.data.background", "expected red, green and blue, 0 to 255")


def for_training(data: config_lib.Data) -> Pipeline:
    """Return the random pipeline of the training split."""
    transforms = [CROPS[data.crop](data)]
    if data.flip:
        transforms.append(RandomFlip())
    if data.augment:
        mean = tuple(min(255, max(0, round(255 * value))) for value in data.mean)
        transforms.append(policies.parse_policy(data.augment, mean))
    if data.color_jitter:
        transforms.append(policies.ColorJitter(data.color_jitter))
    affine = data.affine
    if affine.degrees or affine.scale or affine.shift:
        transforms.append(RandomAffine(affine.degrees, affine.scale, affine.shift))
    return Pipeline(tuple(transforms), data.channels, data.background, data.max_pixels)


def for_evaluation(data: config_lib.Data) -> Pipeline:
    """Return the deterministic pipeline of the other splits."""
    fit = FITS[data.fit](data.image_size, data.crop_fraction, data.interpolation)
    return Pipeline((fit,), data.channels, data.background, data.max_pixels)


def normalize(
    images: UInt8[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w c"]:
    """Scale pixels to 0..1, subtract the mean, divide by the standard deviation; on the device."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
