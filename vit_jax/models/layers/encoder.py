"""The stack of blocks: the only loop over depth."""

import functools

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid
from vit_jax.models.parts import Constructor


class Encoder(nn.Module):
    """Blocks that map tokens to tokens of the same layout, one after another.

    Its parameters are those of the model that holds it (`nn.share_scope`), under the names of the
    blocks.
    """

    block: Constructor  # of a block, which still lacks its attention and its `drop_rate`
    attention: Constructor  # which still lacks the index of its block
    names: tuple[str, ...]  # of the blocks
    drop_rates: tuple[float, ...]
    conditional: Constructor | None = None  # a position embedding, after the first block

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Map tokens to tokens."""
        for i, (name, rate) in enumerate(zip(self.names, self.drop_rates, strict=True)):
            attention = functools.partial(self.attention, block=i)
            block = self.block(attention=attention, drop_rate=rate, name=name)
            tokens = block(tokens, grid, train=train)
            if self.conditional and not i:
                tokens = self.conditional(name=f"{name}_posemb")(tokens, grid)
            tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        return tokens
