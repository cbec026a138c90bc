"""Swin (Liu et al. 2021, https://arxiv.org/abs/2103.14030) and Swin v2 (Liu et al. 2022).

image -> stem: patches, linear projection -> norm
      -> stages of blocks with attention in windows, which odd blocks shift;
         between stages, 2x2 tokens are merged to one of twice the width
      -> norm -> mean -> head
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.window import GroupedAttention
from vit_jax.models.layers.blocks import ResidualPostNormBlock
from vit_jax.models.layers.grid import Grid, ceil_div
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.posemb.relative import LogSpacedBias
from vit_jax.models.layers.stems import STEMS
from vit_jax.models.output import Output
from vit_jax.models.parts import Part, Problem, fixed, name_of, part
from vit_jax.models.transformer import Transformer


class Swin(Transformer):
    """Swin and Swin v2, for images of any size.

    Images are padded to whole patches, and grids to even sizes before they are merged. The
    attention can be exchanged; the stages stay.
    """

    width: int = fixed(
        96, "embedding dimension of the first stage; each further stage doubles it", low=1
    )
    depths: tuple[int, ...] = fixed((2, 2, 6, 2), "blocks per stage", low=1, high=1000)
    num_heads: tuple[int, ...] = fixed((3, 6, 12, 24), "attention heads per stage", low=1)
    mlp_ratio: float = fixed(
        4.0, "hidden width of the MLP, as a multiple of the width of the stage", above=0
    )
    stem: Part = part(STEMS, "patch", "stem, from pixels to tokens", fields={"patch": (4, 4)})
    posemb: Part = part(POSEMBS, "relative_bias", "position embedding")
    attention: Part = part(ATTENTIONS, "window", "attention", inherit="free")
    norm_eps: float = fixed(1e-5, "epsilon of LayerNorm", above=0, high=1)
    merge_eps: float = fixed(
        0.0, "epsilon of LayerNorm after the stem and in patch merging; 0: norm_eps", low=0, high=1
    )

    def find_problems(self) -> Iterator[Problem]:
        """Yield also problems with the number of stages, and a pool that needs a class token."""
        stages = len(self.depths)
        if not stages:
            yield "depths", "expected at least one stage"
        if len(self.num_heads) != stages:
            problem = f"expected one number for each of {stages} stages, got {self.num_heads}"
            yield "num_heads", problem
        if self.pool.module.reads_class_token:
            name = name_of(self.pool, POOLS)
            yield "pool.name", f"Swin has no class token; use gap or map, got {name}"
        yield from super().find_problems()

    @property
    def stride(self) -> tuple[int, int]:
        """(1, 1): images can have any size."""
        return 1, 1

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """(width, number of heads) of each stage."""
        return tuple((self.width * 2**i, heads) for i, heads in enumerate(self.num_heads))

    @property
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the blocks of each stage."""
        return tuple(
            tuple(f"stages_{i}_{j}" for j in range(depth)) for i, depth in enumerate(self.depths)
        )

    def fields_from_weights(
        self, other: Transformer, image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Return `posemb.pretrained_window` for a model with other windows than the weights."""
        if self.posemb.module is not LogSpacedBias or other.posemb.module is not LogSpacedBias:
            return {}
        if _window(self.attention) == _window(other.attention):
            return {}
        trained = self.posemb["pretrained_window"] or self.window_sides(image_size)
        return {"posemb.pretrained_window": trained}

    def window_sides(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the larger side of the windows of each stage, in tokens.

        Args:
          image_size: Height and width in pixels.
        """
        sizes = [(height, width) for height, width, _ in self.grids(image_size)]
        windows = [_window(self.attention) or size for size in sizes]
        return tuple(
            max(min(pair) for pair in zip(size, window, strict=True))
            for size, window in zip(sizes, windows, strict=True)
        )

    def grids(self, image_size: tuple[int, int]) -> tuple[Grid, ...]:
        """Return the layout of the tokens of each stage, for a height and width in pixels."""
        stride = self._make_stem(pad=True, parent=None).stride
        height, width = (ceil_div(*pair) for pair in zip(image_size, stride, strict=True))
        return tuple(
            Grid(ceil_div(height, 2**i), ceil_div(width, 2**i)) for i in range(len(self.depths))
        )

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Output:
        """Classify normalized images.

        Args:
          images: The images, normalized, of any height and width.
          train: Whether dropout and stochastic depth are active; they need the random key
          `dropout`.
        """
        x = self._make_stem(pad=True, name="stem")(images.astype(self.dtype), train=train)
        merge_eps = self.merge_eps or self.norm_eps
        x = nn.LayerNorm(epsilon=merge_eps, dtype=self.dtype, name="stem_norm")(x)
        _, positions = self._added_positions(x.shape[1], x.shape[2], x.shape[3], 0)
        x = x + positions.astype(x.dtype)
        x = nn.Dropout(self._dropout("embed"))(x, deterministic=not train)
        rates = self._drop_rates(sum(self.depths))
        for i, depth in enumerate(self.depths):
            if i:
                norm_last = self.block.module is ResidualPostNormBlock
                merge = PatchMerging(norm_last, merge_eps, self.dtype, name=f"merge_{i - 1}")
                x = merge(x)
            batch, height, width, dim = x.shape
            first = sum(self.depths[:i])
            tokens = self._encode(
                x.reshape(batch, height * width, dim),
                Grid(height, width),
                stage=i,
                mlp_dim=int(dim * self.mlp_ratio),
                drop_rates=rates[first : first + depth],
                train=train,
            )
            x = tokens.reshape(batch, height, width, dim)
        mlp_dim = int(dim * self.mlp_ratio)
        tokens, features = self._norm_and_pool(tokens, 0, self.num_heads[-1], mlp_dim, train)
        return self._classify(tokens, Grid(height, width), features)


def _window(attention: Part) -> tuple[int, ...]:
    """Return height and width of the windows of an attention, or () if it has no windows."""
    has_windows = issubclass(attention.module, GroupedAttention)
    return tuple(attention["window"]) if has_windows else ()


class PatchMerging(nn.Module):
    """Linear projection of 2x2 neighbours to twice the width (Liu et al. 2021, section 3.1)."""

    norm_last: bool = False  # norm after the projection, as in Swin v2, instead of before
    norm_eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 2*d"]:
        """Halve height and width; odd sizes are first padded with zeros."""
        norm = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")
        init = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), (None, "embed"))
        reduction = nn.Dense(
            2 * x.shape[-1], use_bias=False, kernel_init=init, dtype=self.dtype, name="reduction"
        )
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        # On a TPU, a reshape to 2x2 tokens would be copied several times.
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        return norm(reduction(x)) if self.norm_last else reduction(norm(x))
