"""Stems: from the pixels of an image to a grid of tokens.

A token stands for a cell of `stride` pixels.
"""

from collections.abc import Iterator
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.resnet import NUM_GROUPS, WEIGHT_STANDARDIZATIONS, ResNet
from vit_jax.models.parts import Component, Model, Part, Problem, adapted, fixed

NORMS = ("layer", "batch")  # of the features between the layers of a stem


class Stem(Component):
    """What all stems share."""

    width: int
    dtype: str = "float32"
    pad: bool = False  # pad images to whole cells, with zeros at bottom and right
    patch: tuple[int, int] = fixed((16, 16), "height and width of a patch in pixels", low=1)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width of a token's cell in pixels."""
        return self.patch

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Return one vector per cell.

        Raises:
          ValueError: The stride does not divide the image, or the stem does not take this patch.
        """
        size = images.shape[1:3]
        missing = [-pixels % cell for pixels, cell in zip(size, self.stride, strict=True)]
        if any(missing) and not self.pad:
            raise ValueError(f"images of {size} pixels are not made of patches of {self.stride}")
        images = jnp.pad(images, ((0, 0), *((0, pixels) for pixels in missing), (0, 0)))
        return self._embed(images, train)

    def _embed(self, images: Array, train: bool) -> Array:
        """Return one vector per cell, for images that the stride divides."""
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
        """Convolve; `padding` counts the rows and columns of zeros on each side."""
        # Only a dimension of `width` channels is sharded: the mesh need not divide any other.
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

    It is computed as a convolution whose kernel and stride have the size of a patch.
    """

    cost: ClassVar[str] = "one product for each pixel and channel"

    patch: tuple[int, int] = adapted((16, 16), "height and width of a patch in pixels", low=1)

    def _embed(self, images: Array, train: bool) -> Array:
        return self._project(images)


class HybridEmbed(Stem):
    """Linear projection of patches of a ResNet's map (Dosovitskiy et al. 2021, section 3.1).

    A patch is measured in cells of the map.
    """

    cost: ClassVar[str] = "grows with `layers` and with `width_factor` squared"

    layers: tuple[int, ...] = fixed(
        (), "bottlenecks per stage of the ResNet; (): only its root", low=1, high=1000
    )
    width_factor: float = fixed(1.0, "width of the ResNet: times 64 features in its root", above=0)
    weight_standardization: str = fixed(
        "std", "form of weight standardization", choices=WEIGHT_STANDARDIZATIONS
    )
    norm_eps: float = fixed(1e-6, "epsilon of GroupNorm", above=0, high=1)

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a width that the groups of its norms do not divide."""
        root = round(64 * part["width_factor"])
        if not root or root % NUM_GROUPS:
            problem = f"64 times it is the features of the root: a multiple of {NUM_GROUPS}"
            yield "stem.width_factor", problem

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width of a token's cell in pixels."""
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
    """A stem that halves the image until a patch is one cell.

    Between its layers the papers have BatchNorm, which is the option `norm = batch`. The default is
    LayerNorm over the channels, with which the outputs of an image do not depend on other images.
    """

    norm: str = fixed("layer", "norm between the layers", choices=dict.fromkeys(NORMS))

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a patch that cannot be halved to one cell."""
        if not halves(part["patch"]):
            patch = tuple(part["patch"])
            yield (
                "stem.patch",
                f"expected a square whose side is a power of two from 2, got {patch}",
            )

    def _norm(self, x: Array, name: str, train: bool) -> Array:
        if self.norm == "layer":
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_fast_variance=False,  # whose cancellation depends on the number of devices
            dtype=self.dtype,
            name=name,
        )
        return norm(x)

    def _reduced_width(self, divisor: int) -> int:
        """Return a fraction of the width, at least 4: LayerNorm of 2 channels keeps only a sign."""
        return min(self.width, max(4, self.width // divisor))


class ConvStem(HalvingStem):
    """Convolutions of stride 2 until a patch is one cell (Xiao et al. 2021, section 3).

    The channels double up to the width; a linear projection follows.
    """

    cost: ClassVar[str] = "about d / 50 times `patch`, for patches of 16"

    def _embed(self, images: Array, train: bool) -> Array:
        x = images
        halvings = _halvings(self.patch)
        for i in range(halvings):
            features = self._reduced_width(2 ** (halvings - 1 - i))
            x = self._conv(x, f"conv_{i}", features, (3, 3), (2, 2), (1, 1))
            x = nn.relu(self._norm(x, f"norm_{i}", train))
        return self._conv(x, "proj", self.width, (1, 1), (1, 1))


class HierarchicalMlp(HalvingStem):
    """An MLP that merges pieces within a patch, never across (Touvron et al. 2022, section 5).

    Pieces of 4x4 pixels, or of 2x2 where the patch is smaller than 8, are merged two by two, with a
    quarter of the width until the patch is whole.
    """

    cost: ClassVar[str] = "about d / 320 times `patch`, for patches of 16"

    def _embed(self, images: Array, train: bool) -> Array:
        x = images
        halvings = _halvings(self.patch)
        sides = [4] + [2] * (halvings - 3) if halvings > 2 else [2] * (halvings - 1)
        for i, side in enumerate(sides):
            x = self._conv(x, f"conv_{i}", self._reduced_width(4), (side, side), (side, side))
            x = nn.gelu(self._norm(x, f"norm_{i}", train), approximate=False)
        x = self._conv(x, f"conv_{len(sides)}", self.width, (2, 2), (2, 2))
        return self._norm(x, f"norm_{len(sides)}", train)


class OverlapEmbed(Stem):
    """Linear projection of overlapping windows, LayerNorm (Wang et al. 2022, PVT v2, section 3).

    A window is two patches less one pixel high and wide; its bottom right pixel is that of its
    patch. The image is padded with zeros.
    """

    cost: ClassVar[str] = "about four times `patch`"

    def _embed(self, images: Array, train: bool) -> Array:
        height, width = self.patch
        window = (2 * height - 1, 2 * width - 1)
        padding = (height - 1, width - 1)
        x = self._conv(images, "proj", self.width, window, self.patch, padding)
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)


def halves(patch: tuple[int, ...]) -> bool:
    """Return whether a patch is square, with a side that is a power of two from 2."""
    side = patch[0]
    return len(set(patch)) == 1 and side >= 2 and not side & (side - 1)


def _halvings(patch: tuple[int, int]) -> int:
    """Return how often a patch is halved until it is one pixel."""
    if not halves(patch):
        raise ValueError(f"expected a square whose side is a power of two from 2, got {patch}")
    return patch[0].bit_length() - 1


STEMS: dict[str, type[Stem]] = {
    "patch": PatchEmbed,
    "resnet": HybridEmbed,
    "conv": ConvStem,
    "hmlp": HierarchicalMlp,
    "overlap": OverlapEmbed,
}
