"""Stems: from the pixels of an image to a grid of tokens.

Every entry of `STEMS` has the same fields, and cuts its input into cells of `stride` pixels.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.resnet import ResNet


class Stem(nn.Module):
    """The fields that every stem has; only `resnet` uses those from `resnet_layers` to `pad`."""

    patch: tuple[int, int]  # of the projection: of pixels, or of what the network makes of them
    width: int
    dtype: str = "float32"
    resnet_layers: tuple[int, ...] = ()
    resnet_width: float = 1.0
    weight_standardization: str = "std"
    group_norm_eps: float = 1e-6
    pad: bool = False  # images that the stride does not divide, with zeros at bottom and right

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of a token's cell."""
        return self.patch

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Returns one vector a cell.

        Raises:
          ValueError: The stride does not divide the image, or the stem cannot have this patch.
        """
        missing = [-size % cell for size, cell in zip(images.shape[1:3], self.stride, strict=True)]
        if any(missing) and not self.pad:
            size = images.shape[1:3]
            raise ValueError(f"images of {size} pixels are not made of patches of {self.stride}")
        return self._embed(jnp.pad(images, ((0, 0), *((0, size) for size in missing), (0, 0))))

    def _embed(self, images: Array) -> Array:
        """Returns one vector a cell of images that the stride divides."""
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
        """Convolves, with this many rows and columns of zeros on each side."""
        # Only the width is a dimension that a mesh has to divide.
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

    def _norm(self, x: Array, name: str) -> Array:
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)

    def _part(self, divisor: int) -> int:
        """Returns a part of the width, at least 4: LayerNorm leaves but a sign of two channels."""
        return min(self.width, max(4, self.width // divisor))


class PatchEmbed(Stem):
    """Cuts the image into patches and projects each linearly (Dosovitskiy et al. 2021, eq. 1).

    A convolution whose kernel and stride are the patch is the same thing.
    """

    def _embed(self, images: Array) -> Array:
        return self._project(images)


class HybridEmbed(Stem):
    """Cuts the feature map of a ResNet into patches (Dosovitskiy et al. 2021, section 3.1)."""

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of a token's cell."""
        reduction = 4 * 2 ** max(0, len(self.resnet_layers) - 1)
        return self.patch[0] * reduction, self.patch[1] * reduction

    def _embed(self, images: Array) -> Array:
        resnet = ResNet(
            self.resnet_layers,
            round(64 * self.resnet_width),
            self.weight_standardization,
            self.group_norm_eps,
            self.dtype,
            name="resnet",
        )
        return self._project(resnet(images))


class ConvStem(Stem):
    """Halves the image by convolutions until a cell is a pixel (Xiao et al. 2021, section 3).

    Channels double up to the width; a linear map follows. Each convolution is followed by LayerNorm
    over the channels, where the paper has BatchNorm: a training state here has no statistics of
    batches.
    """

    def _embed(self, images: Array) -> Array:
        x, halvings = images, _halvings(self.patch)
        for i in range(halvings):
            features = self._part(2 ** (halvings - 1 - i))
            x = self._conv(x, f"conv_{i}", features, (3, 3), (2, 2), (1, 1))
            x = nn.relu(self._norm(x, f"norm_{i}"))
        return self._conv(x, "proj", self.width, (1, 1), (1, 1))


class HierarchicalMlp(Stem):
    """Joins ever larger pieces of a patch, and never two patches (Touvron et al. 2022, section 5).

    Pieces of 4x4 pixels are joined two by two, or of 2x2 where the patch is less than 8, with a
    quarter of the width until the patch is whole. Each step ends with LayerNorm over the channels,
    where the paper has BatchNorm: a training state here has no statistics of batches.
    """

    def _embed(self, images: Array) -> Array:
        x, halvings = images, _halvings(self.patch)
        sides = [4] + [2] * (halvings - 3) if halvings > 2 else [2] * (halvings - 1)
        for i, side in enumerate(sides):
            x = self._conv(x, f"conv_{i}", self._part(4), (side, side), (side, side))
            x = nn.gelu(self._norm(x, f"norm_{i}"), approximate=False)
        x = self._conv(x, f"conv_{len(sides)}", self.width, (2, 2), (2, 2))
        return self._norm(x, f"norm_{len(sides)}")


class OverlapEmbed(Stem):
    """Projects windows that overlap, and normalizes them (Wang et al. 2022, PVT v2, section 3).

    A window ends at bottom and right where its patch does, and is as large as two patches less one
    row and one column of pixels. Zeros surround the image.
    """

    def _embed(self, images: Array) -> Array:
        height, width = self.patch
        size, padding = (2 * height - 1, 2 * width - 1), (height - 1, width - 1)
        return self._norm(self._conv(images, "proj", self.width, size, self.patch, padding), "norm")


def halves(patch: tuple[int, ...]) -> bool:
    """Returns whether a patch can be halved until it is a pixel, at least once."""
    side = patch[0]
    return len(set(patch)) == 1 and side >= 2 and not side & (side - 1)


def _halvings(patch: tuple[int, int]) -> int:
    """Returns how often a patch is halved until it is a pixel."""
    if not halves(patch):
        raise ValueError(f"expected a square patch of 2, 4, 8 or so pixels, got {patch}")
    return patch[0].bit_length() - 1


STEMS: dict[str, type[Stem]] = {
    "patch": PatchEmbed,
    "resnet": HybridEmbed,
    "conv": ConvStem,
    "hmlp": HierarchicalMlp,
    "overlap": OverlapEmbed,
}

# Those that halve the image until a cell is a pixel.
POWER_OF_TWO_STEMS = ("conv", "hmlp")
