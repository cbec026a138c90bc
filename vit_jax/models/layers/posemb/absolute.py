"""Position embeddings that are added to the tokens.

They are called as `posemb(num_prefix=p, num_registers=r)(height, width, dim)` and return the
embeddings of the prefix tokens, (p, d), (p + r, d) or (0, d), and of the grid, (h, w, d).
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.posemb.interpolation import (
    POSEMB_INTERPOLATIONS,
    resample,
    stored,
)
from vit_jax.models.parts import Component, Model, Part, Problem, fixed

Embedding = tuple[Float[Array, "p d"], Float[Array, "h w d"]]


# Those for tables of positions; the others are for tables of offsets.
INTERPOLATIONS = {k: v for k, v in POSEMB_INTERPOLATIONS.items() if k != "geometric"}


class Absolute(Component):
    """What a model tells a position embedding that is added to its tokens."""

    num_prefix: int  # class and distillation token
    num_registers: int = 0

    site: ClassVar[str] = "tokens"


class Learned(Absolute):
    """A learned vector for each position of the grid and for each prefix token.

    The parameter has the grid of the images it was initialized with; for images of another size it
    is resampled.
    """

    cost: ClassVar[str] = "n d parameters"

    interpolation: str = fixed(
        "bicubic", "how the table is resampled for a new grid", choices=INTERPOLATIONS
    )
    antialias: bool = fixed(True, "antialias when the table is resampled")
    prefix: bool = fixed(True, "class and distillation token have positions (not in DeiT III)")
    registers: bool = fixed(False, "registers have positions too (in some models of timm)")

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield registers that have positions where other tokens before the patches have none."""
        if part["registers"] and not part["prefix"]:
            yield "posemb.registers", "needs posemb.prefix"

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Return the embeddings for a grid of this height and width."""
        init = nn.initializers.normal(0.02)
        prefix: Any = jnp.zeros((0, dim))
        rows = self.num_prefix + (self.num_registers if self.registers else 0)
        if self.prefix and rows:
            boxed = nn.with_logical_partitioning(init, (None, "embed"))
            prefix = self.param("prefix", boxed, (rows, dim), jnp.float32)
        boxed = nn.with_logical_partitioning(init, (None, None, "embed"))
        grid = stored(self, "grid", boxed, (height, width, dim))
        return prefix, resample(grid, height, width, self.interpolation, self.antialias)


class SinCos2d(Absolute):
    """Fixed sines and cosines of row and column, a quarter of the channels each.

    As in MoCo v3 (Chen et al. 2021) and the plain ViT baselines (Beyer et al. 2022). The embeddings
    of prefix tokens are zero. The width must be a multiple of 4, at least 8.
    """

    cost: ClassVar[str] = "none"

    temperature: float = 10_000.0

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a width that is not made of four waves or more."""
        width, _ = model.stages[0]
        if width % 4 or width < 8:
            yield "width", f"sincos2d needs a multiple of 4 from 8, got {width}"

    @nn.compact
    def __call__(self, height: int, width: int, dim: int) -> Embedding:
        """Return the embeddings for a grid of this height and width."""
        quarter = dim // 4
        omega = self.temperature ** (-jnp.arange(quarter) / (quarter - 1))
        rows = jnp.arange(height)[:, None] * omega
        columns = jnp.arange(width)[:, None] * omega
        rows = jnp.broadcast_to(rows[:, None], (height, width, quarter))
        columns = jnp.broadcast_to(columns[None], (height, width, quarter))
        waves = (jnp.sin(columns), jnp.cos(columns), jnp.sin(rows), jnp.cos(rows))
        return jnp.zeros((self.num_prefix, dim)), jnp.concatenate(waves, axis=-1)
