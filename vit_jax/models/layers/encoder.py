"""The stack of Transformer blocks."""

import functools

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid
from vit_jax.models.parts import Constructor


# What the backward pass computes again, by name: the names of the arrays in a block that are kept
# besides its input; None keeps everything.
REMATS: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "linear": ("qkv", "out", "fc1", "fc2"),
    "attention": ("qkv", "out"),
    "block": (),
}


class Encoder(nn.Module):
    """A stack of blocks that keep number, width and layout of the tokens.

    The caller applies `nn.share_scope`, so that the parameters of the blocks belong to the model
    itself and `encoder` is not part of their names.
    """

    block: Constructor  # called with `attention`, `drop_rate` and `name`
    attention: Constructor  # called with the index `block`
    names: tuple[str, ...]  # names of the blocks
    drop_rates: tuple[float, ...]  # stochastic depth rates of the blocks
    conditional: Constructor | None = None  # position embedding that follows the first block
    remat: str = "none"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply the blocks to tokens that have the layout `grid`."""
        for i, (name, rate) in enumerate(zip(self.names, self.drop_rates, strict=True)):
            attention = functools.partial(self.attention, block=i)
            block = self.block(attention=attention, drop_rate=rate, name=name)
            tokens = block(tokens, grid, train=train)
            if self.conditional and not i:
                tokens = self.conditional(name=f"{name}_posemb")(tokens, grid)
            tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        return tokens
