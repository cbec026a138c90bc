"""Stems: from the pixels of an image to a grid of tokens.

Every entry of `STEMS` has the same fields, and cuts its input into cells of `stride` pixels.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.models.layers.resnet import ResNet


class Stem(nn.Module):
    """The fields that every stem has; only `resnet` uses the last four."""

    patch: tuple[int, int]  # of the projection: of pixels, or of what the network makes of them
    width: int
    dtype: str = "float32"
    resnet_layers: tuple[int, ...] = ()
    resnet_width: float = 1.0
    weight_standardization: str = "std"
    group_norm_eps: float = 1e-6

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of a token's cell."""
        return self.patch

    def _project(self, x: Array) -> Array:
        init = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(), (None, None, None, "embed")
        )
        return nn.Conv(
            self.width,
            self.patch,
            strides=self.patch,
            padding="VALID",
            kernel_init=init,
            dtype=self.dtype,
            name="proj",
        )(x)

    def _check_size(self, images: Array) -> None:
        size = images.shape[1:3]
        if size[0] % self.stride[0] or size[1] % self.stride[1]:
            raise ValueError(f"images of {size} pixels are not made of patches of {self.stride}")


class PatchEmbed(Stem):
    """Cuts the image into patches and projects each linearly (Dosovitskiy et al. 2021, eq. 1).

    A convolution whose kernel and stride are the patch is the same thing.
    """

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Returns one vector a patch.

        Raises:
          ValueError: The patch does not divide the image.
        """
        self._check_size(images)
        return self._project(images)


class HybridEmbed(Stem):
    """Cuts the feature map of a ResNet into patches (Dosovitskiy et al. 2021, section 3.1)."""

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of a token's cell."""
        reduction = 4 * 2 ** max(0, len(self.resnet_layers) - 1)
        return self.patch[0] * reduction, self.patch[1] * reduction

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Returns one vector a patch of the feature map.

        Raises:
          ValueError: The stride does not divide the image.
        """
        self._check_size(images)
        resnet = ResNet(
            self.resnet_layers,
            round(64 * self.resnet_width),
            self.weight_standardization,
            self.group_norm_eps,
            self.dtype,
            name="resnet",
        )
        return self._project(resnet(images))


STEMS: dict[str, type[Stem]] = {"patch": PatchEmbed, "resnet": HybridEmbed}
