"""Stems: map the pixels of an image to a grid of tokens.

Each token covers `stride` (height, width) pixels.
"""

from collections.abc import Iterator
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.activations import ACTIVATIONS
from vit_jax.models.layers.resnet import NUM_GROUPS, WEIGHT_STANDARDIZATIONS, ResNet
from vit_jax.models.parts import Component, Model, Part, Problem, adapted, fixed

NORMS = ("layer", "batch")  # between the layers of a stem


class Stem(Component):
    """Base class of stems."""

    width: int
    dtype: str = "float32"
    pad: bool = False  # pad images with zeros at the bottom and right to a multiple of the stride
    patch: tuple[int, int] = fixed((16, 16), "height and width of a patch in pixels", low=1)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels that a token covers."""
        return self.patch

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Return one token per `stride` pixels.

        Raises:
          ValueError: The stride does not divide the image size and `pad` is false, or the stem does
            not support the patch.
        """
        size = images.shape[1:3]
        padding = [-pixels % stride for pixels, stride in zip(size, self.stride, strict=True)]
        if any(padding) and not self.pad:
            raise ValueError(f"image size {size} is not a multiple of the stride {self.stride}")
        images = jnp.pad(images, ((0, 0), *((0, pixels) for pixels in padding), (0, 0)))
        return self._embed(images, train)

    def _embed(self, images: Array, train: bool) -> Array:
        """Return one token per `stride` pixels, for images whose size the stride divides."""
        raise NotImplementedError

    def _conv(
        self,
        x: Array,
        name: str,
        features: int,
        size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
    ) -> Array:
        """Apply a convolution with `padding` rows and columns of zeros on each side."""
        # Only `width` channels are sharded, so that the mesh need not divide smaller dimensions.
        names = (None, None, None, "embed" if features == self.width else None)
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), names)
        conv = nn.Conv(
            features,
            size,
            strides=stride,
            padding=padding,
            kernel_init=init,
            dtype=self.dtype,
            name=name,
        )
        return conv(x)

    def _project(self, x: Array) -> Array:
        return self._conv(x, "proj", self.width, self.patch, self.patch)


class PatchEmbed(Stem):
    """Linear projection of the patches of an image (Dosovitskiy et al. 2021, eq. 1).

    It is a convolution whose kernel size and stride are the patch size.
    """

    cost: ClassVar[str] = "one product for each pixel and channel"

    patch: tuple[int, int] = adapted((16, 16), "height and width of a patch in pixels", low=1)

    def _embed(self, images: Array, train: bool) -> Array:
        return self._project(images)


class HybridEmbed(Stem):
    """Linear projection of patches of a ResNet's feature map (Dosovitskiy et al. 2021, 3.1)."""

    cost: ClassVar[str] = "grows with `layers` and with `width_factor` squared"

    patch: tuple[int, int] = fixed(
        (16, 16), "height and width of a patch in positions of the ResNet's feature map", low=1
    )
    layers: tuple[int, ...] = fixed(
        (), "bottleneck blocks per stage of the ResNet; (): only its root", low=1, high=1000
    )
    width_factor: float = fixed(1.0, "width of the ResNet; 1 is 64 channels in its root", above=0)
    weight_standardization: str = fixed(
        "std", "denominator of weight standardization", choices=WEIGHT_STANDARDIZATIONS
    )
    norm_eps: float = fixed(1e-6, "epsilon of GroupNorm", above=0, high=1)

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if GroupNorm cannot divide the channels of the root into its groups."""
        root = round(64 * part["width_factor"])
        if not root or root % NUM_GROUPS:
            problem = f"gives {root} channels in the root; expected a multiple of {NUM_GROUPS}"
            yield "stem.width_factor", problem

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels that a token covers."""
        reduction = 4 * 2 ** max(0, len(self.layers) - 1)
        return self.patch[0] * reduction, self.patch[1] * reduction

    def _embed(self, images: Array, train: bool) -> Array:
        resnet = ResNet(
            self.layers,
            round(64 * self.width_factor),
            self.weight_standardization,
            self.norm_eps,
            self.dtype,
            name="resnet",
        )
        return self._project(resnet(images))


class HalvingStem(Stem):
    """Base class of stems that halve height and width until a patch is one token.

    The papers use BatchNorm between the layers, which is `norm=batch`. The default is LayerNorm
    over the channels: the output for an image then does not depend on the other images of the
    batch.
    """

    norm: str = fixed("layer", "norm between the layers of the stem", choices=dict.fromkeys(NORMS))

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if the patch cannot be halved to one pixel."""
        if not is_halvable(part["patch"]):
            patch = tuple(part["patch"])
            yield "stem.patch", f"expected a square with side 2, 4, 8, 16 ..., got {patch}"

    def _norm(self, x: Array, name: str, train: bool) -> Array:
        if self.norm == "layer":
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_fast_variance=False,  # E[x²] - E[x]² rounds differently on other numbers of devices
            dtype=self.dtype,
            name=name,
        )
        return norm(x)

    def _reduced_width(self, divisor: int) -> int:
        """Return width / divisor, at least 4, because LayerNorm reduces 2 channels to a sign."""
        return min(self.width, max(4, self.width // divisor))


class ConvStem(HalvingStem):
    """3x3 convolutions with stride 2 until a patch is one token (Xiao et al. 2021, section 3).

    The channels double from layer to layer, up to the width of the model. A linear projection
    follows.
    """

    cost: ClassVar[str] = "about d / 50 times `patch`, for patches of 16"

    def _embed(self, images: Array, train: bool) -> Array:
        x = images
        halvings = _num_halvings(self.patch)
        for i in range(halvings):
            features = self._reduced_width(2 ** (halvings - 1 - i))
            x = self._conv(x, f"conv_{i}", features, (3, 3), (2, 2), (1, 1))
            x = nn.relu(self._norm(x, f"norm_{i}", train))
        return self._conv(x, "proj", self.width, (1, 1), (1, 1))


class HierarchicalMlp(HalvingStem):
    """Linear layers that merge subpatches within each patch (hMLP; Touvron et al. 2022, section 5).

    The first layer maps 4x4 pixels, or 2x2 if the patch is smaller than 8x8. Each further layer
    merges 2x2 subpatches. All layers but the last have a quarter of the width. No layer connects
    different patches.
    """

    cost: ClassVar[str] = "about d / 320 times `patch`, for patches of 16"

    def _embed(self, images: Array, train: bool) -> Array:
        x = images
        halvings = _num_halvings(self.patch)
        sides = [4] + [2] * (halvings - 3) if halvings > 2 else [2] * (halvings - 1)
        for i, side in enumerate(sides):
            x = self._conv(x, f"conv_{i}", self._reduced_width(4), (side, side), (side, side))
            x = ACTIVATIONS["gelu"](self._norm(x, f"norm_{i}", train))
        x = self._conv(x, f"conv_{len(sides)}", self.width, (2, 2), (2, 2))
        return self._norm(x, f"norm_{len(sides)}", train)


class OverlapEmbed(Stem):
    """Linear projection of overlapping windows, LayerNorm (Wang et al. 2022, PVT v2, section 3).

    For a patch of side p, the window has side 2 p - 1, and its bottom right pixel is that of the
    patch. The image is padded with zeros.
    """

    cost: ClassVar[str] = "about four times `patch`"

    def _embed(self, images: Array, train: bool) -> Array:
        height, width = self.patch
        window = (2 * height - 1, 2 * width - 1)
        padding = (height - 1, width - 1)
        x = self._conv(images, "proj", self.width, window, self.patch, padding)
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)


def is_halvable(patch: tuple[int, ...]) -> bool:
    """Return whether a patch is square and its side is a power of two, at least 2."""
    side = patch[0]
    return len(set(patch)) == 1 and side >= 2 and not side & (side - 1)


def _num_halvings(patch: tuple[int, int]) -> int:
    """Return the number of halvings that reduce a patch to one pixel."""
    if not is_halvable(patch):
        raise ValueError(f"expected a square patch with side 2, 4, 8, 16 ..., got {patch}")
    return patch[0].bit_length() - 1


STEMS: dict[str, type[Stem]] = {
    "patch": PatchEmbed,
    "resnet": HybridEmbed,
    "conv": ConvStem,
    "hmlp": HierarchicalMlp,
    "overlap": OverlapEmbed,
}
