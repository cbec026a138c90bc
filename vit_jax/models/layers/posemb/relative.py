"""Relative position biases of the attention scores.

A module is called with the height and width of the patch grid and the number p of prefix tokens.
For n patches it returns the bias (heads, p + n, p + n), queries first. Prefix tokens have no
position: each head has one bias for attention from patches to prefix tokens, one for the opposite
direction and one among prefix tokens (Bao et al. 2022, BEiT).
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
    resizable_param,
)
from vit_jax.models.parts import Component, Model, Part, Problem, fixed, free


class Relative(Component):
    """Base class of relative position biases: look up each pair of patches by its offset."""

    num_heads: int
    stage: int = 0  # index of the stage of the model

    site: ClassVar[str] = "bias"

    @nn.compact
    def __call__(self, height: int, width: int, num_prefix: int) -> Float[Array, "heads n n"]:
        """Return the bias of each pair of query (first n) and key (last n)."""
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
        """Return the bias of each offset, (height, width, heads); both sizes are odd."""
        raise NotImplementedError


class RelativeBias(Relative):
    """A learned bias per offset of row and column (Liu et al. 2021, Swin, eq. 4).

    The parameter has the offsets of the grid that it was initialized with. For another grid it is
    resampled.
    """

    cost: ClassVar[str] = "about 4 n h parameters a block, n^2 h additions"

    interpolation: str = fixed(
        "bicubic", "interpolation of the table for another grid size", choices=POSEMB_INTERPOLATIONS
    )
    antialias: bool = fixed(True, "antialiasing when the table is resampled to a smaller grid")

    def _table(self, height: int, width: int) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, None, "heads"))
        table = resizable_param(self, "table", init, (height, width, self.num_heads))
        return resample(table, height, width, self.interpolation, self.antialias)


class LogSpacedBias(Relative):
    """An MLP of the log-spaced offsets (Liu et al. 2022, Swin v2, section 3.3).

    Offsets are relative to the largest offset in the windows that the weights were trained with, so
    that the bias of another window needs no resampling.
    """

    cost: ClassVar[str] = "512 (h + 3) parameters a block, n^2 h additions"

    hidden_dim: int = 512  # hidden width of the MLP
    pretrained_window: tuple[int, ...] = free(
        (),
        "window side, in tokens per stage, that the weights were trained with; (): the current one",
        low=0,
    )

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if there is not one window side per stage."""
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
        """Return sign(x) log2(|x| + 1) / log2(8) of offsets x, where the largest trained x is 8."""
        largest = num_offsets // 2
        side = self.pretrained_window[self.stage] if self.pretrained_window else 0
        pretrained_largest = side - 1 if side else largest
        x = 8 * np.arange(-largest, largest + 1) / max(1, pretrained_largest)
        return np.sign(x) * np.log2(np.abs(x) + 1) / np.log2(8)
