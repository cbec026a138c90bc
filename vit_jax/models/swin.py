"""Swin (Liu et al. 2021, https://arxiv.org/abs/2103.14030) and Swin v2 (Liu et al. 2022).

image -> patches -> linear projection, norm
      -> stages of blocks with attention in windows, which every other block shifts;
         between stages, 2x2 tokens are merged into one of twice the width
      -> norm -> mean -> head
"""

from collections.abc import Mapping
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.blocks import drop_path_rates
from vit_jax.models.layers.grid import Grid, ceil_div
from vit_jax.models.output import Output
from vit_jax.models.transformer import Transformer, part, variable


class Swin(Transformer):
    """Swin, for images of any size: images are padded to whole patches, and grids to even sizes.

    With another attention than windows it is a pyramid of that attention.
    """

    patch: tuple[int, int] = part((4, 4), "height and width of a patch in pixels")
    width: int = part(96, "embedding dimension of the first stage; each merging doubles it")
    depths: tuple[int, ...] = part((2, 2, 6, 2), "blocks per stage")
    num_heads: tuple[int, ...] = part((3, 6, 12, 24), "attention heads per stage")
    mlp_ratio: float = part(4.0, "hidden dimension of the MLP over its width")
    attention: str = variable(
        "window", "full, fused, window, dilated, linformer, nystrom, reduced, linear"
    )
    posemb: str = part("relative_bias", "positions: relative_bias, log_cpb, or those of a ViT")
    pretrained_window: tuple[int, ...] = variable(
        (), "log_cpb: side of the windows that the weights were trained with, per stage; (): window"
    )
    norm_eps: float = part(1e-5, "epsilon of LayerNorm")

    @property
    def stride(self) -> tuple[int, int]:
        """1, 1: images may have any size."""
        return 1, 1

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of heads of each stage."""
        return self.num_heads

    def fields_from_weights(
        self, fields: Mapping[str, Any], image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Return the windows that the weights were trained with, for a model with others."""
        if tuple(fields["window"]) == tuple(self.window):
            return {}
        return {"pretrained_window": self.pretrained_window or self.window_sides(image_size)}

    def window_sides(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the larger side of the windows of each stage, given height and width in pixels."""
        grid = [ceil_div(pixels, cell) for pixels, cell in zip(image_size, self.patch, strict=True)]
        sides = []
        for _ in self.depths:
            sides.append(max(min(pair) for pair in zip(grid, self.window, strict=True)))
            grid = [ceil_div(size, 2) for size in grid]
        return tuple(sides)

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Output:
        """Classify normalized images; training needs a random key named `dropout`."""
        x = self._make_stem(pad=True, name="stem")(images.astype(self.dtype))
        x = self._make_norm("stem_norm")(x)
        _, positions = self._absolute(x.shape[1], x.shape[2], x.shape[3], 0)
        x = x + positions.astype(x.dtype)
        x = nn.Dropout(self._dropout("embed"))(x, deterministic=not train)
        rates = iter(drop_path_rates(self.drop_path, self.drop_path_schedule, sum(self.depths)))
        pretrained_windows = self.pretrained_window or (0,) * len(self.depths)
        for i, (depth, num_heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
            if i:
                norm_last = self.norm_order == "res_post"
                merge = PatchMerging(norm_last, self.norm_eps, self.dtype, name=f"merge_{i - 1}")
                x = merge(x)
            batch, height, width, dim = x.shape
            tokens = x.reshape(batch, height * width, dim)
            for j in range(depth):
                tokens = self._apply_block(
                    tokens,
                    Grid(height, width),
                    index=j,
                    num_heads=num_heads,
                    mlp_dim=round(dim * self.mlp_ratio),
                    drop_path=next(rates),
                    train=train,
                    name=f"stages_{i}_{j}",
                    pretrained_window=pretrained_windows[i],
                )
            x = tokens.reshape(batch, height, width, dim)
        tokens = self._make_norm("norm")(tokens)
        features = self._pool(tokens, 0, num_heads, round(dim * self.mlp_ratio), train)
        return self._classify(tokens, features)


class PatchMerging(nn.Module):
    """Linear projection of 2x2 neighbours to twice the width (Liu et al. 2021, section 3.1)."""

    norm_last: bool = False  # normalize the output, as in Swin v2, instead of the input
    norm_eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 2*d"]:
        """Halve height and width, which are padded with zeros to even sizes."""
        norm = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")
        init = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), (None, "embed"))
        reduction = nn.Dense(
            2 * x.shape[-1], use_bias=False, kernel_init=init, dtype=self.dtype, name="reduction"
        )
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = einops.rearrange(x, "b (h i) (w j) d -> b h w (j i d)", i=2, j=2)
        return norm(reduction(x)) if self.norm_last else reduction(norm(x))
