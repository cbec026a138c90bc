"""Stems: from the pixels of an image to a grid of tokens."""

import flax.linen as nn
from jaxtyping import Array, Float


class PatchEmbed(nn.Module):
    """Cuts the image into patches and projects each linearly (Dosovitskiy et al. 2021, eq. 1).

    A convolution whose kernel and stride are the patch is the same thing.
    """

    patch: tuple[int, int]
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Returns one vector a patch.

        Raises:
          ValueError: The patch does not divide the image.
        """
        size = images.shape[1:3]
        if size[0] % self.patch[0] or size[1] % self.patch[1]:
            raise ValueError(f"images of {size} pixels are not made of patches of {self.patch}")
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
        )(images)
