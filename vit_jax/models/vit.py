"""The Vision Transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

image -> patches -> linear projection -> + position embedding
      -> [class token, distillation token, registers, patches]
      -> encoder (attention and feed-forward, each normalized and residual) -> norm -> pool -> head
"""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.blocks import drop_path_rates
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.pools import READ_CLASS_TOKEN
from vit_jax.models.output import Output
from vit_jax.models.transformer import Transformer, at_least_float32, part, variable


class ViT(Transformer):
    """The Vision Transformer; its fields cover every published plain or hybrid variant."""

    depth: int = part(12, "number of blocks")
    num_heads: int = part(12, "number of attention heads")
    mlp_dim: int = part(3072, "hidden dimension of the MLP")
    pool: str = variable("cls", "what the head sees: cls, gap, cls_gap, map")
    keep_class_token: bool = part(False, "keep the class token where the pool does not read it")
    distilled: bool = part(False, "distillation token and head (Touvron et al. 2021, section 4)")
    posemb_prefix: bool = part(
        True, "position embeddings of class and distillation token (not in DeiT III)"
    )
    num_registers: int = part(0, "register tokens (Darcet et al. 2024)")
    fc_norm: bool = part(False, "final norm after the pool instead of before")

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width of a token's cell in pixels, which must divide those of an image."""
        return self._make_stem(pad=False, parent=None).stride

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of heads of the only stage."""
        return (self.num_heads,)

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Output:
        """Classify normalized images; training needs a random key named `dropout`.

        Raises:
          ValueError: The stride does not divide the image.
        """
        tokens, grid = self._embed(images.astype(self.dtype), train)
        rates = drop_path_rates(self.drop_path, self.drop_path_schedule, self.depth)
        for i, rate in enumerate(rates):
            tokens = self._apply_block(
                tokens,
                grid,
                index=i,
                num_heads=self.num_heads,
                mlp_dim=self.mlp_dim,
                drop_path=rate,
                train=train,
                name=f"blocks_{i}",
            )
        if not self.fc_norm:
            tokens = self._make_norm("norm")(tokens)
        features = self._pool(tokens, grid.num_prefix, self.num_heads, self.mlp_dim, train)
        if self.fc_norm:
            features = self._make_norm("fc_norm")(features)
        output = self._classify(tokens, features)
        if not (self.distilled and self.num_classes):
            return output
        aux_logits = self._head("head_dist")(at_least_float32(tokens[:, 1]))
        logits = output.logits if train else (output.logits + aux_logits) / 2
        return dataclasses.replace(output, logits=logits, aux_logits=(aux_logits,))

    def _embed(self, images: Array, train: bool) -> tuple[Array, Grid]:
        """Return the tokens (b, n, d) and their layout."""
        patches = self._make_stem(pad=False, name="stem")(images)
        batch, height, width, dim = patches.shape
        names = []
        if self.pool in READ_CLASS_TOKEN or self.keep_class_token:
            names.append("cls_token")
        if self.distilled:
            names.append("dist_token")
        num_embedded = len(names) if self.posemb_prefix else 0
        positions, grid_positions = self._absolute(height, width, dim, num_embedded)
        prefix = [self._token(name, 1, batch, dim) for name in names]
        prefix = [
            token + position.astype(token.dtype)
            for token, position in itertools.zip_longest(prefix, positions, fillvalue=jnp.zeros(()))
        ]
        if self.num_registers:
            prefix.append(self._token("registers", self.num_registers, batch, dim))
        patches = patches + grid_positions.astype(patches.dtype)
        patches = patches.reshape(batch, height * width, dim)
        tokens = jnp.concatenate([*prefix, patches], axis=1)
        tokens = nn.Dropout(self._dropout("embed"))(tokens, deterministic=not train)
        tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        return tokens, Grid(height, width, len(names) + self.num_registers)

    def _token(self, name: str, num: int, batch: int, dim: int) -> Array:
        """Return learned tokens (b, num, d), the same for every image."""
        init = nn.initializers.zeros_init() if name == "cls_token" else nn.initializers.normal(0.02)
        boxed = nn.with_logical_partitioning(init, (None, "embed"))
        tokens: Any = self.param(name, boxed, (num, dim), jnp.float32)
        return jnp.broadcast_to(tokens.astype(self.dtype), (batch, num, dim))
