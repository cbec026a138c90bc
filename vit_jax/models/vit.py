"""The Vision Transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

image -> stem: patches, linear projection -> + position embedding
      -> [class token, distillation token, register tokens, patch tokens]
      -> blocks of attention and MLP, each with norm and residual connection -> norm -> pool -> head
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.pools import POOLS, ClassToken
from vit_jax.models.output import Output
from vit_jax.models.parts import Part, Problem, fixed, part
from vit_jax.models.transformer import Transformer, at_least_float32


class ViT(Transformer):
    """The Vision Transformer: plain ViT, hybrids, DeiT, DeiT III and DINOv2, by its fields."""

    depth: int = fixed(12, "number of blocks", low=1, high=1000)
    num_heads: int = fixed(12, "number of attention heads", low=1)
    mlp_dim: int = fixed(3072, "hidden width of the MLP", low=1)
    pool: Part = part(POOLS, "cls", "how tokens are pooled for the head", inherit="free")
    keep_class_token: bool = fixed(False, "add a class token even if the pool does not read it")
    distilled: bool = fixed(False, "add a distillation token (Touvron et al. 2021, section 4)")
    distilled_head: bool = fixed(True, "separate head for the distillation token, if there is one")
    num_registers: int = fixed(
        0, "number of register tokens (Darcet et al. 2024)", low=0, high=4096
    )

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels that a token covers; they must divide those of an image."""
        return self._make_stem(pad=False, parent=None).stride

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """(width, number of heads) of the only stage."""
        return ((self.width, self.num_heads),)

    @property
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the blocks of the only stage."""
        return (tuple(f"blocks_{i}" for i in range(self.depth)),)

    @property
    def token_names(self) -> tuple[str, ...]:
        """Names of the prefix tokens, without the registers, which follow them."""
        has_class_token = self.pool.module.reads_class_token or self.keep_class_token
        return ("cls_token",) * has_class_token + ("dist_token",) * self.distilled

    def grids(self, image_size: tuple[int, int]) -> tuple[Grid, ...]:
        """Return the layout of the tokens of the only stage, for a height and width in pixels."""
        height, width = (size // step for size, step in zip(image_size, self.stride, strict=True))
        return (Grid(height, width, len(self.token_names) + self.num_registers),)

    def find_problems(self) -> Iterator[Problem]:
        """Yield also a problem if the two heads of a distilled model would get different inputs."""
        yield from super().find_problems()
        reads_token = self.pool.module is ClassToken and not self.pool["fc_norm"]
        has_two_heads = self.distilled and self.distilled_head
        if has_two_heads and (not reads_token or self.representation_size):
            yield "distilled", "needs pool=cls without fc_norm, and representation_size=0"

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Output:
        """Classify normalized images.

        Args:
          images: The images, normalized; their height and width are multiples of the stride.
          train: Whether dropout and stochastic depth are active; they need the random key
          `dropout`. In
            evaluation a distilled model averages the logits of its two heads.

        Raises:
          ValueError: The stride does not divide the image size.
        """
        tokens, grid = self._embed(images.astype(self.dtype), train)
        tokens = self._encode(
            tokens,
            grid,
            stage=0,
            mlp_dim=self.mlp_dim,
            drop_rates=self._drop_rates(self.depth),
            train=train,
        )
        tokens, features = self._norm_and_pool(
            tokens, grid.num_prefix, self.num_heads, self.mlp_dim, train
        )
        output = self._classify(tokens, grid, features)
        if not (self.distilled and self.distilled_head and self.num_classes):
            return output
        aux_logits = self._head("head_dist")(at_least_float32(tokens[:, 1]))
        logits = output.logits if train else (output.logits + aux_logits) / 2
        return dataclasses.replace(output, logits=logits, aux_logits=(aux_logits,))

    def _embed(self, images: Array, train: bool) -> tuple[Array, Grid]:
        """Return prefix and patch tokens (b, n, d), with absolute positions, and their layout."""
        patches = self._make_stem(pad=False, name="stem")(images, train=train)
        batch, height, width, dim = patches.shape
        names = self.token_names
        positions, grid_positions = self._added_positions(
            height, width, dim, len(names), self.num_registers
        )
        prefix = [self._token(name, 1, batch, dim) for name in names]
        prefix = [
            token + position.astype(token.dtype)
            for token, position in itertools.zip_longest(
                prefix, positions[: len(names)], fillvalue=jnp.zeros(())
            )
        ]
        if self.num_registers:
            registers = self._token("registers", self.num_registers, batch, dim)
            if len(positions) > len(names):
                registers = registers + positions[len(names) :].astype(registers.dtype)
            prefix.append(registers)
        patches = patches + grid_positions.astype(patches.dtype)
        patches = patches.reshape(batch, height * width, dim)
        tokens = jnp.concatenate([*prefix, patches], axis=1)
        tokens = nn.Dropout(self._dropout("embed"))(tokens, deterministic=not train)
        tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        return tokens, Grid(height, width, len(names) + self.num_registers)

    def _token(self, name: str, num: int, batch: int, dim: int) -> Array:
        """Return learned tokens (b, num, d), which are the same for every image."""
        init = nn.initializers.zeros_init() if name == "cls_token" else nn.initializers.normal(0.02)
        boxed = nn.with_logical_partitioning(init, (None, "embed"))
        tokens: Any = self.param(name, boxed, (num, dim), jnp.float32)
        return jnp.broadcast_to(tokens.astype(self.dtype), (batch, num, dim))
