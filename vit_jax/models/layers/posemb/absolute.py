"""Position embeddings that are added to the tokens.

A module for p class and distillation tokens and r register tokens is called with the height and
width of the patch grid and the width d of the model. It returns the embeddings of the prefix
tokens, (p, d), (p + r, d) or (0, d), and of the patches, (height, width, d).
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb.interpolation import (
    POSEMB_INTERPOLATIONS,
    resample,
    resizable_param,
)
from vit_jax.models.parts import Component, Model, Part, Problem, fixed

Embedding = tuple[Float[Array, "p d"], Float[Array, "h w d"]]


# The methods for tables of positions; `geometric` is only for tables of relative offsets.
INTERPOLATIONS = {k: v for k, v in POSEMB_INTERPOLATIONS.items() if k != "geometric"}


class Absolute(Component):
    """Base class of position embeddings that are added to the tokens."""

    num_prefix: int  # number of class and distillation tokens
    num_registers: int = 0  # number of register tokens

    site: ClassVar[str] = "tokens"


class Learned(Absolute):
    """A learned vector per patch position and per prefix token (Dosovitskiy et al. 2021, eq. 1).

    The parameter has the grid size of the images that it was initialized with. For images of
    another size it is resampled.
    """

    cost: ClassVar[str] = "n d parameters"

    interpolation: str = fixed(
        "bicubic", "interpolation of the table for another grid size", choices=INTERPOLATIONS
    )
    antialias: bool = fixed(True, "antialiasing when the table is resampled to a smaller grid")
    prefix: bool = fixed(
        True, "position embeddings of class and distillation token (DeiT III: none)"
    )
    registers: bool = fixed(
        False, "position embeddings of the register tokens (some models of timm)"
    )

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if registers have positions, but class and distillation token do not."""
        if part["registers"] and not part["prefix"]:
            yield "posemb.registers", "expected false, because posemb.prefix is false"

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Return the embeddings of the prefix tokens and of a grid of height x width patches."""
        init = nn.initializers.normal(0.02)
        prefix: Any = jnp.zeros((0, dim))
        rows = self.num_prefix + (self.num_registers if self.registers else 0)
        if self.prefix and rows:
            boxed = nn.with_logical_partitioning(init, (None, "embed"))
            prefix = self.param("prefix", boxed, (rows, dim), jnp.float32)
        boxed = nn.with_logical_partitioning(init, (None, None, "embed"))
        grid = resizable_param(self, "grid", boxed, (height, width, dim))
        return prefix, resample(grid, height, width, self.interpolation, self.antialias)


class SinCos2d(Absolute):
    """Fixed sines and cosines of row and column, each in a quarter of the channels.

    As in MoCo v3 (Chen et al. 2021) and the plain ViT baselines (Beyer et al. 2022). The embeddings
    of prefix tokens are zero. The width must be a multiple of 4 and at least 8.
    """

    cost: ClassVar[str] = "none"

    temperature: float = 10_000.0

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if the width is not a multiple of 4, or smaller than 8."""
        width, _ = model.stages[0]
        if width % 4 or width < 8:
            yield "width", f"sincos2d needs a multiple of 4 that is at least 8, got {width}"

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Return the embeddings of the prefix tokens and of a grid of height x width patches."""
        quarter = dim // 4
        omega = self.temperature ** (-jnp.arange(quarter) / (quarter - 1))
        rows = jnp.arange(height)[:, None] * omega
        columns = jnp.arange(width)[:, None] * omega
        rows = jnp.broadcast_to(rows[:, None], (height, width, quarter))
        columns = jnp.broadcast_to(columns[None], (height, width, quarter))
        waves = (jnp.sin(columns), jnp.cos(columns), jnp.sin(rows), jnp.cos(rows))
        return jnp.zeros((self.num_prefix, dim)), jnp.concatenate(waves, axis=-1)
