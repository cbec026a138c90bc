"""Biases of the attention scores by relative position.

They are called with a number of heads, and return the bias for p prefix tokens and n patches,
(heads, p + n, p + n). Prefix tokens have no position: each head has one bias from patches to them,
one from them to patches, and one among them (Bao et al. 2022, BEiT).
"""

import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb.interpolation import (
    POSEMB_INTERPOLATIONS,
    resample,
    stored,
)
from vit_jax.models.parts import Component, Model, Part, Problem, fixed, free


class Relative(Component):
    """What a model tells both biases, and how a table of offsets becomes a bias."""

    num_heads: int
    stage: int = 0  # of the model

    site: ClassVar[str] = "bias"

    @nn.compact
    def __call__(self, height: int, width: int, num_prefix: int) -> Float[Array, "heads n n"]:
        """Return the bias from query (first) to key (last)."""
        table = self._table(2 * height - 1, 2 * width - 1)
        rows, columns = (
            np.arange(size)[:, None] - np.arange(size) + size - 1 for size in (height, width)
        )
        bias = table[rows[:, None, :, None], columns[None, :, None, :]]
        num_patches = height * width
        bias = bias.reshape(num_patches, num_patches, -1).transpose(2, 0, 1)
        if not num_prefix:
            return bias
        prefix: Any = self.param(
            "prefix",
            nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "heads")),
            (3, self.num_heads),
            jnp.float32,
        )
        shapes = [(num_patches, num_prefix), (num_prefix, num_patches), (num_prefix, num_prefix)]
        to_prefix, from_prefix, among_prefix = (
            jnp.broadcast_to(value[:, None, None], (self.num_heads, *shape))
            for value, shape in zip(prefix, shapes, strict=True)
        )
        return jnp.block([[among_prefix, from_prefix], [to_prefix, bias]])

    def _table(self, height: int, width: int) -> Array:
        """Return the bias of each offset, (height, width, heads)."""
        raise NotImplementedError


class RelativeBias(Relative):
    """A learned bias for each offset of row and column (Liu et al. 2021, Swin, eq. 4).

    The parameter has the offsets of the grid it was initialized with; for another grid it is
    resampled.
    """

    cost: ClassVar[str] = "about 4 n h parameters a block, n^2 h additions"

    interpolation: str = fixed(
        "bicubic", "how the table is resampled for a new grid", choices=POSEMB_INTERPOLATIONS
    )
    antialias: bool = fixed(True, "antialias when the table is resampled")

    def _table(self, height: int, width: int) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, None, "heads"))
        table = stored(self, "table", init, (height, width, self.num_heads))
        return resample(table, height, width, self.interpolation, self.antialias)


class LogSpacedBias(Relative):
    """An MLP of the offsets on a logarithmic scale (Liu et al. 2022, Swin v2, section 3.3).

    Offsets are relative to the side of the window that the weights were trained with, so that
    nothing has to be resampled.
    """

    cost: ClassVar[str] = "512 (h + 3) parameters a block, n^2 h additions"

    hidden_dim: int = 512
    pretrained_window: tuple[int, ...] = free(
        (),
        "side of the windows that the weights were trained with, per stage; (): the windows of now",
        low=0,
    )

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield another number of windows than of stages."""
        sides, stages = part["pretrained_window"], len(model.stages)
        if sides and len(sides) != stages:
            problem = f"expected one number for each of {stages} stages, got {sides}"
            yield "posemb.pretrained_window", problem

    def _table(self, height: int, width: int) -> Array:
        axes = (self._scaled_offsets(height), self._scaled_offsets(width))
        offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        up = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, "mlp"))
        down = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("mlp", "heads"))
        dense = functools.partial(nn.Dense, use_bias=False)
        x = nn.Dense(self.hidden_dim, kernel_init=up, name="fc1")(jnp.asarray(offsets))
        return 16 * nn.sigmoid(dense(self.num_heads, kernel_init=down, name="fc2")(nn.relu(x)))

    def _scaled_offsets(self, num_offsets: int) -> np.ndarray:
        """Return sign(x) log2(|x| + 1) / log2(8) of the offsets; the largest trained is x = 8."""
        largest = num_offsets // 2
        side = self.pretrained_window[self.stage] if self.pretrained_window else 0
        pretrained_largest = side - 1 if side else largest
        x = 8 * np.arange(-largest, largest + 1) / max(1, pretrained_largest)
        return np.sign(x) * np.log2(np.abs(x) + 1) / np.log2(8)
