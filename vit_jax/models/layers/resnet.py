"""The ResNet of Big Transfer (Kolesnikov et al. 2020), which is the stem of hybrid models.

It uses weight standardization (Qiao et al. 2019) and GroupNorm (Wu and He 2018), so that it needs
no batch statistics.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NUM_GROUPS = 32


def _divide_by_std(kernel: Array) -> Array:
    mean, std = (f(kernel, axis=(0, 1, 2), keepdims=True) for f in (jnp.mean, jnp.std))
    return (kernel - mean) / (std + 1e-5)


def _divide_by_root_variance(kernel: Array) -> Array:
    mean, variance = (f(kernel, axis=(0, 1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
    return (kernel - mean) / jnp.sqrt(variance + 1e-8)


# Weight standardization per output channel: (w - mean) / (std + 1e-5) in Google's code,
# (w - mean) / sqrt(var + 1e-8) in timm's hybrids.
WEIGHT_STANDARDIZATIONS: dict[str, Callable[[Array], Array]] = {
    "std": _divide_by_std,
    "variance": _divide_by_root_variance,
}


class StdConv(nn.Module):
    """A convolution with standardized weights, SAME padding and no bias."""

    features: int
    size: int
    stride: int = 1
    standardization: str = "std"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W f"]:
        """Convolve; height and width are divided by the stride and rounded up."""
        init = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(), (None, None, None, "embed")
        )
        shape = (self.size, self.size, x.shape[-1], self.features)
        weights: Any = self.param("kernel", init, shape, jnp.float32)
        weights = weights.astype(jnp.promote_types(weights.dtype, self.dtype))
        kernel = WEIGHT_STANDARDIZATIONS[self.standardization](weights)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions with 4 * `features` output channels."""

    features: int
    stride: int
    standardization: str
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W f"]:
        """Apply the block; height and width are divided by the stride and rounded up."""
        conv = functools.partial(StdConv, standardization=self.standardization, dtype=self.dtype)
        norm = functools.partial(nn.GroupNorm, NUM_GROUPS, epsilon=self.norm_eps, dtype=self.dtype)
        out_features = 4 * self.features
        residual = x
        if self.stride > 1 or x.shape[-1] != out_features:
            residual = conv(out_features, 1, self.stride, name="conv_proj")(x)
            residual = norm(name="norm_proj")(residual)
        x = nn.relu(norm(name="norm1")(conv(self.features, 1, name="conv1")(x)))
        x = nn.relu(norm(name="norm2")(conv(self.features, 3, self.stride, name="conv2")(x)))
        zeros = nn.initializers.zeros_init()
        x = norm(scale_init=zeros, name="norm3")(conv(out_features, 1, name="conv3")(x))
        return nn.relu(residual + x)


class ResNet(nn.Module):
    """A root that reduces height and width by 4, then stages; all but the first halve them."""

    layers: tuple[int, ...]  # bottleneck blocks per stage; (): only the root
    features: int  # channels of the root
    standardization: str
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w f"]:
        """Return the feature map of the last stage."""
        x = StdConv(self.features, 7, 2, self.standardization, self.dtype, name="conv_root")(images)
        norm = nn.GroupNorm(NUM_GROUPS, epsilon=self.norm_eps, dtype=self.dtype, name="norm_root")
        x = nn.max_pool(nn.relu(norm(x)), (3, 3), strides=(2, 2), padding="SAME")
        for i, depth in enumerate(self.layers):
            for j in range(depth):
                x = Bottleneck(
                    self.features * 2**i,
                    2 if i and not j else 1,
                    self.standardization,
                    self.norm_eps,
                    self.dtype,
                    name=f"stages_{i}_{j}",
                )(x)
        return x
