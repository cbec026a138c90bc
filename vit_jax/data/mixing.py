"""Transforms of a batch on the device: normalization, random erasing, mixup and cutmix.

The random numbers of a row depend only on (seed, step, row), so they are the same for any number of
devices. Letters: b batch, h w image, c channels, k classes.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from vit_jax import config as config_lib
from vit_jax.data.transforms import normalize
from vit_jax.errors import ConfigError, suggest

FILLS = ("pixel", "channel", "zero")

# Maps labels to class probabilities, one row each.
Targets = Callable[[Int[Array, " b"]], Float[Array, "b k"]]
Examples = tuple[Float[Array, "b h w c"], Float[Array, "b k"]]  # images and their targets


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Random erasing: replaces a random rectangle of an image by noise (Zhong et al. 2020).

    As in timm, the fraction of the area is sampled uniformly, and the ratio of height to width
    log-uniformly. The first of ten samples that fits in the image is used; if none fits, nothing is
    erased.
    """

    probability: float  # per image
    area: tuple[float, float] = (0.02, 1 / 3)  # minimum and maximum fraction of the image's area
    ratio: tuple[float, float] = (0.3, 1 / 0.3)  # minimum and maximum height / width
    fill: str = "pixel"  # normal noise per pixel or per channel, or `zero`, the mean

    def __call__(self, images: Float[Array, "b h w c"], keys: Array) -> Float[Array, "b h w c"]:
        """Erase a rectangle of random images.

        Args:
          images: Normalized images.
          keys: One random key per image, (b,).
        """
        return jax.vmap(self._erase)(images, keys)

    def sample_box(self, key: Array, height: int, width: int) -> Int[Array, "4"]:
        """Sample (top, left, height, width) in pixels; height and width are 0 if none fits."""
        keys = jax.random.split(key, 4)
        fraction = jax.random.uniform(keys[0], (10,), minval=self.area[0], maxval=self.area[1])
        log_ratio = jax.random.uniform(
            keys[1], (10,), minval=math.log(self.ratio[0]), maxval=math.log(self.ratio[1])
        )
        area = fraction * height * width
        ratio = jnp.exp(log_ratio)
        box_height = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
        box_width = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
        fits = (box_height < height) & (box_width < width)
        first = jnp.argmax(fits)
        box_height = jnp.where(fits.any(), box_height[first], 0)
        box_width = jnp.where(fits.any(), box_width[first], 0)
        top = jax.random.randint(keys[2], (), 0, height - box_height + 1)
        left = jax.random.randint(keys[3], (), 0, width - box_width + 1)
        return jnp.stack([top, left, box_height, box_width])

    def _erase(self, image: Float[Array, "h w c"], key: Array) -> Float[Array, "h w c"]:
        height, width, channels = image.shape
        key_apply, key_box, key_noise = jax.random.split(key, 3)
        inside = _box_mask(self.sample_box(key_box, height, width), height, width)
        erased = inside & (jax.random.uniform(key_apply) < self.probability)
        if self.fill == "zero":
            content = jnp.zeros_like(image)
        else:
            shape = image.shape if self.fill == "pixel" else (1, 1, channels)
            content = jax.random.normal(key_noise, shape, image.dtype)
        return jnp.where(erased[..., None], content, image)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixup and cutmix: mixes each image and its target with those of a partner.

    Mixup (Zhang et al. 2018) averages the two images with the weights lambda and 1 - lambda. Cutmix
    (Yun et al. 2019) replaces a rectangle of the image by that of its partner. Lambda is sampled
    once per batch from Beta(alpha, alpha). An alpha of 0 disables the method. If both are enabled,
    `switch` is the probability of cutmix.
    """

    mixup: float  # alpha of mixup
    cutmix: float  # alpha of cutmix
    probability: float = 1.0  # that a batch is mixed
    switch: float = 0.5

    def __call__(self, own: Examples, partner: Examples, key: Array) -> Examples:
        """Mix a batch.

        Args:
          own: Normalized images, and class probabilities. The sum of each row does not change.
          partner: The images and class probabilities that they are mixed with.
          key: The random key of the batch.

        Returns:
          The mixed images and targets.
        """
        (images, targets), (partner_images, partner_targets) = own, partner
        key_apply, key_switch, key_mixup, key_cutmix, key_box = jax.random.split(key, 5)
        probability_of_cutmix = (self.switch if self.mixup else 1.0) if self.cutmix else 0.0
        is_cutmix = jax.random.uniform(key_switch) < probability_of_cutmix
        height, width = images.shape[1:3]
        mixup_lam = jax.random.beta(key_mixup, self.mixup, self.mixup) if self.mixup else 1.0
        cutmix_lam = jax.random.beta(key_cutmix, self.cutmix, self.cutmix) if self.cutmix else 1.0
        inside = _box_mask(self.sample_box(key_box, cutmix_lam, height, width), height, width)
        # Of the image, not its partner, per pixel.
        weights = jnp.where(is_cutmix, 1.0 - inside, mixup_lam)
        weights = jnp.where(jax.random.uniform(key_apply) < self.probability, weights, 1.0)
        weights = weights.astype(images.dtype)[None, :, :, None]
        # The label is weighted by the area of the rectangle, which is smaller if it was clipped at
        # the edge.
        label_lam = jnp.mean(weights, dtype=jnp.float32)
        mixed = images * weights + partner_images * (1 - weights)
        return mixed, targets * label_lam + partner_targets * (1 - label_lam)

    def sample_box(
        self, key: Array, lam: Array | float, height: int, width: int
    ) -> Int[Array, "4"]:
        """Sample the rectangle of cutmix.

        Its centre is sampled uniformly from the pixels of the image. It is clipped at the edges.

        Args:
          key: The random key.
          lam: Lambda; before clipping, the rectangle has the fraction 1 - lambda of the image's
            area.
          height: Height of the image in pixels.
          width: Width of the image in pixels.

        Returns:
          Top, left, height and width in pixels.
        """
        side = jnp.sqrt(1.0 - jnp.asarray(lam, jnp.float32))
        spans = []
        for key_axis, size in zip(jax.random.split(key), (height, width), strict=True):
            half = jnp.floor(size * side).astype(jnp.int32) // 2
            centre = jax.random.randint(key_axis, (), 0, size)
            start = jnp.maximum(centre - half, 0)
            end = jnp.minimum(centre + half, size)
            spans.append((start, end - start))
        (top, box_height), (left, box_width) = spans
        return jnp.stack([top, left, box_height, box_width])


@dataclasses.dataclass(frozen=True)
class BatchTransform:
    """Normalizes, erases and mixes the images of a training batch.

    The partner of a row is the same row of the reversed batch, which another device may hold. Only
    pixels and labels are exchanged: a device computes the images and targets of partners itself.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    erasing: RandomErasing | None
    mix: Mix | None
    targets: Targets

    def __call__(
        self, pixels: UInt8[Array, "b h w c"], labels: Int[Array, " b"], key: Array
    ) -> Examples:
        """Return the images and targets that the model is trained on.

        Args:
          pixels: The images.
          labels: Their labels.
          key: The random key of the step. The keys of the rows are derived from it.
        """
        key_rows, key_batch = jax.random.split(key)
        count = len(pixels)
        rows = jnp.arange(count)
        own = self._images(pixels, rows, key_rows), self.targets(labels)
        if not self.mix:
            return own
        images = self._images(pixels[::-1], count - 1 - rows, key_rows)
        partner = images, self.targets(labels[::-1])
        return self.mix(own, partner, key_batch)

    def _images(self, pixels: Array, rows: Array, key: Array) -> Array:
        """Return normalized images, erased as their rows of the batch are."""
        images = normalize(pixels, self.mean, self.std)
        if not self.erasing:
            return images
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        return self.erasing(images, keys)


def batch_transform(data: config_lib.Data, mix: config_lib.Mix, targets: Targets) -> BatchTransform:
    """Return the transform of a training batch.

    Args:
      data: The config section of the images.
      mix: The config section of mixup and cutmix.
      targets: Maps labels to class probabilities.

    Raises:
      ConfigError: `data.erasing_fill` is unknown.
    """
    if data.erasing_fill not in FILLS:
        hint = suggest(data.erasing_fill, FILLS)
        raise ConfigError("config.data.erasing_fill", f"unknown '{data.erasing_fill}'; {hint}")
    erasing = RandomErasing(data.erasing, fill=data.erasing_fill) if data.erasing else None
    mixes = (mix.mixup or mix.cutmix) and mix.probability
    mixer = Mix(mix.mixup, mix.cutmix, mix.probability, mix.switch) if mixes else None
    return BatchTransform(data.mean, data.std, erasing, mixer, targets)


def _box_mask(box: Int[Array, "4"], height: int, width: int) -> Array:
    """Return a mask, bool (h, w), that is True inside a box of top, left, height, width."""
    top, left, box_height, box_width = box
    rows = jnp.arange(height)[:, None]
    columns = jnp.arange(width)[None]
    return (
        (rows >= top) & (rows < top + box_height) & (columns >= left) & (columns < left + box_width)
    )
