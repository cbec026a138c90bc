"""Transforms of one image on the host: from a record to uint8 pixels of the model's image size.

Host transforms are frozen dataclasses, called as `transform(image, rng)` on uint8 (h, w, c).
Batches are transferred to the device as uint8 and normalized there (`normalize`).
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
from vit_jax.data.operations import from_bands, to_bands
from vit_jax.data.resizing import FILTERS, covering_size, resize, resize_and_crop
from vit_jax.errors import ConfigError, pick


@runtime_checkable
class Transform(Protocol):
    """A transform of one image. Deterministic transforms ignore the random generator."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 (h, w, c)."""
        ...


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to a height and width, without keeping the aspect ratio."""

    size: tuple[int, int]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 (h, w, c) with the height and width `size`."""
        return resize(image, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Resizes an image so that it just covers `size / fraction`, and crops the centre.

    Sizes and offsets are rounded like those of torchvision's `Resize` and `CenterCrop`, to
    reproduce the evaluation of published weights. Only the crop is computed.
    """

    size: tuple[int, int]  # height and width in pixels
    fraction: float
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 (h, w, c) with the height and width `size`."""
        resized = covering_size(image, self.size, self.fraction)
        spans = []
        for side, whole, crop in zip(image.shape[:2], resized, self.size, strict=True):
            start = round((whole - crop) / 2)
            spans.append((start * side / whole, (start + crop) * side / whole))
        (top, bottom), (left, right) = spans
        return resize(image, self.size, self.interpolation, (left, top, right, bottom))


# The transforms to the model's image size for evaluation: the values of `config.data.fit`.
FITS: dict[str, Callable[[tuple[int, int], float, str], Transform]] = {
    "crop": CentreCrop,
    "squash": lambda size, fraction, interpolation: Resize(size, interpolation),
}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Crops a random box and resizes it ("Inception crop", Szegedy et al. 2015, section 6).

    The fraction of the image's area is sampled uniformly from `area`, the aspect ratio
    log-uniformly from 3/4 to 4/3 times that of `size`. If ten samples do not fit in the image, the
    largest centred box with the aspect ratio of `size` is used.
    """

    size: tuple[int, int]
    area: tuple[float, float]
    interpolation: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 (h, w, c) with the height and width `size`."""
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
    """Resizes an image so that it just covers `size / fraction`, and crops at a random position.

    A fraction below 1 gives big_vision's `resize_small` and `random_crop`. A fraction of 1 with
    reflection padding gives the simple random crop of DeiT III (Touvron et al. 2022, section 3.3).
    """

    size: tuple[int, int]
    fraction: float
    interpolation: str
    padding: int = 0  # reflection padding in pixels on each side

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 (h, w, c) with the height and width `size`."""
        whole = covering_size(image, self.size, self.fraction)
        rows, columns = (
            self._sample(side, crop, rng) for side, crop in zip(whole, self.size, strict=True)
        )
        top, left = int(rows.min()), int(columns.min())
        spans = ((top, int(rows.max()) + 1), (left, int(columns.max()) + 1))
        part = resize_and_crop(image, whole, spans, self.interpolation)
        return part[np.ix_(rows - top, columns - left)]

    def _sample(self, side: int, crop: int, rng: np.random.Generator) -> np.ndarray:
        """Sample a crop along one axis; return the row or column indices in the resized image."""
        padding = min(self.padding, side - 1)  # reflection is limited to the length of the side
        start = int(rng.integers(side + 2 * padding - crop + 1)) - padding
        mirrored = np.abs(np.arange(start, start + crop))
        return np.minimum(mirrored, 2 * (side - 1) - mirrored)


# The transforms to the model's image size for training: the values of `config.data.crop`. `fit` is
# the transform for evaluation.
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
    """Random horizontal flip with probability 0.5."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 of the same shape."""
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Rotates and scales an image about its centre, and shifts it. Pixels outside it become black.

    Each amount is sampled uniformly from [-v, v] for the value v of its field.
    """

    degrees: float
    scale: float  # the scale factor is 1 plus the sampled amount
    shift: float  # fraction of the height and of the width

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the transformed image, uint8 of the same shape."""
        angle, scale, down, right = rng.uniform(-1, 1, 4)
        height, width = image.shape[:2]
        factor = 1 / (1 + self.scale * scale)
        cos = factor * math.cos(math.radians(self.degrees * angle))
        sin = factor * math.sin(math.radians(self.degrees * angle))
        # The centre of the image moves to (x, y). Pillow takes the inverse map, from output to
        # input.
        x = width / 2 + right * self.shift * width
        y = height / 2 + down * self.shift * height
        offset_x = width / 2 - cos * x - sin * y
        offset_y = height / 2 + sin * x - cos * y
        inverse = (cos, sin, offset_x, -sin, cos, offset_y)
        affine = Image.Transform.AFFINE
        bilinear = Image.Resampling.BILINEAR
        return from_bands(
            [band.transform((width, height), affine, inverse, bilinear) for band in to_bands(image)]
        )


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Decodes the image of a record, and transforms it to uint8 (h, w, c) of the model's size."""

    transforms: Sequence[Transform]
    channels: int
    background: tuple[int, ...]
    max_pixels: int

    def decode(self, image: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """Return the pixels of the image of a record, uint8 (h, w, c).

        Args:
          image: The bytes of an image file, a Pillow image, or an array, which is returned
            unchanged.


        Raises:
          UnreadableError: The image cannot be decoded, or an array has the wrong dtype or number of
            channels.
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
    """Check the names of transforms, and the fields that depend on each other.

    Raises:
      ConfigError: A name is unknown, or a value is out of range.
    """
    pick(FILTERS, data.interpolation, "config.data.interpolation")
    pick(FITS, data.fit, "config.data.fit")
    pick(CROPS, data.crop, "config.data.crop")
    if data.augment:
        policies.parse_policy(data.augment)
    if data.root and data.channels not in images.MODES:
        raise ConfigError(
            "config.data.channels", f"expected 1 to 4 channels for image files, got {data.channels}"
        )
    if data.crop_area[0] > data.crop_area[1]:
        raise ConfigError(
            "config.data.crop_area", f"expected (minimum, maximum), got {data.crop_area}"
        )
    if len(data.background) != 3:
        raise ConfigError("config.data.background", "expected red, green and blue, 0 to 255")


def for_training(data: config_lib.Data) -> Pipeline:
    """Return the random pipeline for training images."""
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
    """Return the deterministic pipeline for evaluation and prediction."""
    fit = FITS[data.fit](data.image_size, data.crop_fraction, data.interpolation)
    return Pipeline((fit,), data.channels, data.background, data.max_pixels)


def normalize(
    images: UInt8[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w c"]:
    """Scale pixels to [0, 1], subtract the mean, and divide by the standard deviation.

    Args:
      images: The pixels.
      mean: Mean per channel, on the scale of [0, 1].
      std: Standard deviation per channel, on the scale of [0, 1].
    """
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
