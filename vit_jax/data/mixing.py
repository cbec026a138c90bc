"""Transforms of a batch on the device: normalization, random erasing, then mixup or cutmix.

The random numbers of a row follow from (seed, step, row), so that they are the same on any number
of devices. Letters: b batch, h w image, c channels, k classes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from vit_jax import config as config_lib
from vit_jax.data.transforms import normalize
from vit_jax.errors import ConfigError, suggest

FILLS = ("pixel", "channel", "zero")


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Replaces a random rectangle of some images by noise (Zhong et al. 2020).

    The fraction of the area is sampled uniformly, the ratio of height to width log-uniformly, as in
    timm; the first of ten samples that fits is taken, and where none fits nothing is erased.
    """

    probability: float
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    fill: str = "pixel"  # normal noise for each pixel or each channel; or zero, the mean

    def __call__(self, images: Float[Array, "b h w c"], keys: Array) -> Float[Array, "b h w c"]:
        """Return the images, some with a rectangle erased; `keys` holds one for each row."""
        return jax.vmap(self._erase)(images, keys)

    def box(self, key: Array, height: int, width: int) -> Int[Array, "4"]:
        """Return top, left, height and width in pixels; the last two are 0 where no box fits."""
        keys = jax.random.split(key, 4)
        fraction = jax.random.uniform(keys[0], (10,), minval=self.area[0], maxval=self.area[1])
        log_ratio = jax.random.uniform(
            keys[1], (10,), minval=math.log(self.ratio[0]), maxval=math.log(self.ratio[1])
        )
        area = fraction * height * width
        ratio = jnp.exp(log_ratio)
        tall = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
        wide = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits)
        tall = jnp.where(fits.any(), tall[first], 0)
        wide = jnp.where(fits.any(), wide[first], 0)
        top = jax.random.randint(keys[2], (), 0, height - tall + 1)
        left = jax.random.randint(keys[3], (), 0, width - wide + 1)
        return jnp.stack([top, left, tall, wide])

    def _erase(self, image: Float[Array, "h w c"], key: Array) -> Float[Array, "h w c"]:
        height, width, channels = image.shape
        key_apply, key_box, key_noise = jax.random.split(key, 3)
        inside = _inside(self.box(key_box, height, width), height, width)
        erased = inside & (jax.random.uniform(key_apply) < self.probability)
        if self.fill == "zero":
            content = jnp.zeros_like(image)
        else:
            shape = image.shape if self.fill == "pixel" else (1, 1, channels)
            content = jax.random.normal(key_noise, shape, image.dtype)
        return jnp.where(erased[..., None], content, image)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixes each image and its target with those of its partner in the reversed batch.

    Mixup (Zhang et al. 2018) averages the two images with weights lambda and 1 - lambda; cutmix
    (Yun et al. 2019) pastes a rectangle of the partner. Lambda is one number for the batch, sampled
    from Beta(alpha, alpha). An alpha of 0 disables its method; where both are enabled, `switch` is
    the probability of cutmix.
    """

    mixup: float  # alpha
    cutmix: float  # alpha
    probability: float = 1.0
    switch: float = 0.5

    def __call__(
        self, images: Float[Array, "b h w c"], targets: Float[Array, "b k"], key: Array
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
        """Return mixed images and targets; the sum of a target is unchanged."""
        key_apply, key_switch, key_mixup, key_cutmix, key_box = jax.random.split(key, 5)
        probability_of_cutmix = (self.switch if self.mixup else 1.0) if self.cutmix else 0.0
        is_cutmix = jax.random.uniform(key_switch) < probability_of_cutmix
        height, width = images.shape[1:3]
        mixup_lam = jax.random.beta(key_mixup, self.mixup, self.mixup) if self.mixup else 1.0
        cutmix_lam = jax.random.beta(key_cutmix, self.cutmix, self.cutmix) if self.cutmix else 1.0
        inside = _inside(self.box(key_box, cutmix_lam, height, width), height, width)
        weights = jnp.where(is_cutmix, 1.0 - inside, mixup_lam)  # of the image itself, by pixel
        weights = jnp.where(jax.random.uniform(key_apply) < self.probability, weights, 1.0)
        weights = weights.astype(images.dtype)[None, :, :, None]
        # The weight of a label is the area that was pasted, which at the edge is less than 1 - lam.
        label_lam = jnp.mean(weights, dtype=jnp.float32)
        mixed = images * weights + images[::-1] * (1 - weights)
        return mixed, targets * label_lam + targets[::-1] * (1 - label_lam)

    def box(self, key: Array, lam: Array | float, height: int, width: int) -> Int[Array, "4"]:
        """Return top, left, height and width of the pasted rectangle, in pixels.

        Its area is 1 - `lam` of the image. The centre is anywhere in the image; the rectangle is
        clipped at the edges.
        """
        side = jnp.sqrt(1.0 - jnp.asarray(lam, jnp.float32))
        spans = []
        for key_axis, size in zip(jax.random.split(key), (height, width), strict=True):
            half = jnp.floor(size * side).astype(jnp.int32) // 2
            centre = jax.random.randint(key_axis, (), 0, size)
            start = jnp.maximum(centre - half, 0)
            end = jnp.minimum(centre + half, size)
            spans.append((start, end - start))
        (top, tall), (left, wide) = spans
        return jnp.stack([top, left, tall, wide])


@dataclasses.dataclass(frozen=True)
class BatchTransform:
    """From the pixels and targets of a batch to the images and targets the model trains on."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    erasing: RandomErasing | None
    mix: Mix | None

    def __call__(
        self, pixels: UInt8[Array, "b h w c"], targets: Float[Array, "b k"], key: Array
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
        """Return normalized images, erased and mixed with their targets.

        Args:
          pixels: The images.
          targets: Their classes, as probabilities.
          key: The random key of the step; the key of a row is derived from it.
        """
        images = normalize(pixels, self.mean, self.std)
        key_rows, key_batch = jax.random.split(key)
        if self.erasing:
            rows = jnp.arange(len(images))
            keys = jax.vmap(lambda row: jax.random.fold_in(key_rows, row))(rows)
            images = self.erasing(images, keys)
        if self.mix:
            images, targets = self.mix(images, targets, key_batch)
        return images, targets


def batch_transform(data: config_lib.Data, mix: config_lib.Mix) -> BatchTransform:
    """Return the transform of a training batch.

    Raises:
      ConfigError: The fill of erased rectangles is unknown.
    """
    if data.erasing_fill not in FILLS:
        hint = suggest(data.erasing_fill, FILLS)
        raise ConfigError("config.data.erasing_fill", f"unknown '{data.erasing_fill}'; {hint}")
    erasing = RandomErasing(data.erasing, fill=data.erasing_fill) if data.erasing else None
    mixes = (mix.mixup or mix.cutmix) and mix.probability
    mixer = Mix(mix.mixup, mix.cutmix, mix.probability, mix.switch) if mixes else None
    return BatchTransform(data.mean, data.std, erasing, mixer)


def _inside(box: Int[Array, "4"], height: int, width: int) -> Array:
    """Return which pixels are in a box of top, left, height, width: bool (h, w)."""
    top, left, tall, wide = box
    rows = jnp.arange(height)[:, None]
    columns = jnp.arange(width)[None]
    return (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
