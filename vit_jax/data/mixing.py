"""What happens to a batch on the device: normalization, random erasing, then mixup or cutmix.

The draws of a row follow from (seed, step, row), so that they are the same on any number of
devices. Letters: b batch, h w image, c channels, k classes.
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

    The share of the area is drawn evenly, the ratio of height to width evenly in its logarithm, as
    timm does; the first of ten draws that fits is taken, and where none fits nothing is erased.
    """

    probability: float
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    fill: str = "pixel"  # normal noise for each pixel, or for each channel; or zero, the mean

    def __call__(self, images: Float[Array, "b h w c"], keys: Array) -> Float[Array, "b h w c"]:
        """Returns the images, some with a part erased; `keys` holds one for each row."""
        return jax.vmap(self._erase)(images, keys)

    def box(self, key: Array, height: int, width: int) -> Int[Array, "4"]:
        """Returns top, left, height and width in pixels; height and width are 0 where none fits."""
        keys = jax.random.split(key, 4)
        share = jax.random.uniform(keys[0], (10,), minval=self.area[0], maxval=self.area[1])
        log_ratio = jax.random.uniform(
            keys[1], (10,), minval=math.log(self.ratio[0]), maxval=math.log(self.ratio[1])
        )
        area, ratio = share * height * width, jnp.exp(log_ratio)
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
        chance, where, noise = jax.random.split(key, 3)
        inside = _inside(self.box(where, height, width), height, width)
        erased = inside & (jax.random.uniform(chance) < self.probability)
        if self.fill == "zero":
            filling = jnp.zeros_like(image)
        else:
            shape = image.shape if self.fill == "pixel" else (1, 1, channels)
            filling = jax.random.normal(noise, shape, image.dtype)
        return jnp.where(erased[..., None], filling, image)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixes each image and its target with those of the row as far from the end of the batch.

    Mixup (Zhang et al. 2018) adds the two, weighted; cutmix (Yun et al. 2019) pastes a rectangle of
    the other. The weight is one for the batch, drawn from Beta(alpha, alpha). An alpha of 0 leaves
    its method out; where both are there, `switch` is the probability of cutmix.
    """

    mixup: float  # alpha
    cutmix: float  # alpha
    probability: float = 1.0
    switch: float = 0.5

    def __call__(
        self, images: Float[Array, "b h w c"], targets: Float[Array, "b k"], key: Array
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
        """Returns images and targets mixed; targets still sum to what they summed to."""
        chance, which, first, second, where = jax.random.split(key, 5)
        share = (self.switch if self.mixup else 1.0) if self.cutmix else 0.0
        cuts = jax.random.uniform(which) < share
        height, width = images.shape[1:3]
        added = jax.random.beta(first, self.mixup, self.mixup) if self.mixup else 1.0
        kept = jax.random.beta(second, self.cutmix, self.cutmix) if self.cutmix else 1.0
        inside = _inside(self.box(where, kept, height, width), height, width)
        weights = jnp.where(cuts, 1.0 - inside, added)  # of each pixel; of this image
        weights = jnp.where(jax.random.uniform(chance) < self.probability, weights, 1.0)
        weights = weights.astype(images.dtype)[None, :, :, None]
        # The area counts as it was cut, at the edge less than was drawn.
        share_kept = jnp.mean(weights, dtype=jnp.float32)
        mixed = images * weights + images[::-1] * (1 - weights)
        return mixed, targets * share_kept + targets[::-1] * (1 - share_kept)

    def box(self, key: Array, kept: Array | float, height: int, width: int) -> Int[Array, "4"]:
        """Returns top, left, height and width of what is pasted, whose share is 1 - `kept`.

        The centre is anywhere in the image, so that the rectangle may lie partly outside, where it
        is cut off.
        """
        side = jnp.sqrt(1.0 - jnp.asarray(kept, jnp.float32))
        box = []
        for part, size in zip(jax.random.split(key), (height, width), strict=True):
            half = jnp.floor(size * side).astype(jnp.int32) // 2
            centre = jax.random.randint(part, (), 0, size)
            start, end = jnp.maximum(centre - half, 0), jnp.minimum(centre + half, size)
            box.append((start, end - start))
        (top, tall), (left, wide) = box
        return jnp.stack([top, left, tall, wide])


@dataclasses.dataclass(frozen=True)
class BatchTransform:
    """From the pixels and targets of a batch to what the model trains on."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    erasing: RandomErasing | None
    mix: Mix | None

    def __call__(
        self, pixels: UInt8[Array, "b h w c"], targets: Float[Array, "b k"], key: Array
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
        """Returns normalized images, erased and mixed with their targets.

        Args:
          pixels: The images.
          targets: Their classes, as probabilities.
          key: Of the step; each row's is derived from it.
        """
        images = normalize(pixels, self.mean, self.std)
        for_rows, for_batch = jax.random.split(key)
        if self.erasing:
            rows = jnp.arange(len(images))
            keys = jax.vmap(lambda row: jax.random.fold_in(for_rows, row))(rows)
            images = self.erasing(images, keys)
        if self.mix:
            images, targets = self.mix(images, targets, for_batch)
        return images, targets


def batch_transform(data: config_lib.Data, mix: config_lib.Mix) -> BatchTransform:
    """Returns what happens to a training batch on the device.

    Raises:
      ConfigError: No such fill.
    """
    if data.erasing_fill not in FILLS:
        known = suggest(data.erasing_fill, FILLS)
        raise ConfigError("config.data.erasing_fill", f"unknown '{data.erasing_fill}'; {known}")
    erasing = RandomErasing(data.erasing, fill=data.erasing_fill) if data.erasing else None
    mixes = (mix.mixup or mix.cutmix) and mix.probability
    mixer = Mix(mix.mixup, mix.cutmix, mix.probability, mix.switch) if mixes else None
    return BatchTransform(data.mean, data.std, erasing, mixer)


def _inside(box: Int[Array, "4"], height: int, width: int) -> Array:
    """Returns which pixels lie in a box of top, left, height, width: bool (h, w)."""
    top, left, tall, wide = box
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    return (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
