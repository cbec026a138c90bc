"""The stack of Transformer blocks: the only loop over the depth of a model."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from vit_jax.models.layers.attention import kernels
from vit_jax.models.layers.blocks import drop_path_factors
from vit_jax.models.layers.grid import Grid
from vit_jax.models.parts import Constructor

# The arrays of a block that are kept for the backward pass besides its input, by their checkpoint
# names; all others are computed again. `none` keeps everything.
REMATS: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear": ("qkv", "out", "fc1", "fc2"),
    "attention": ("qkv", "out"),
    "block": (),
}


class Draws(NamedTuple):
    """The random draws of consecutive blocks, one row per block; None where nothing is random.

    Attributes:
      factors: Factors of the two residual branches for each image; see `drop_path_factors`.
      keys: Random keys of the block itself, of its attention and of its feed-forward network.
    """

    factors: Float[Array, "depth 2 b"] | None
    keys: Key[Array, "depth 3"] | None


class Encoder(nn.Module):
    """A stack of blocks that keep number, width and layout of the tokens.

    The caller applies `nn.share_scope`, so that the parameters of the blocks belong to the model
    itself and `encoder` is not part of their names.

    Variables may be stacked, as in `models.stacking`: these blocks are applied by a scan. The
    random draws are the same.
    """

    block: Constructor  # called with `attention`, `mlp`, `factors` and `name`
    attention: Constructor  # called with the index `block` and `dropout_key`
    mlp: Constructor  # called with `dropout_key`
    names: tuple[str, ...]  # names of the blocks
    drop_rates: tuple[float, ...]  # stochastic depth rates of the blocks
    conditional: Constructor | None = None  # position embedding that follows the first block
    period: int = 1  # 2: even and odd blocks differ
    remat: str = "none"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply the blocks to tokens that have the layout `grid`."""
        batch, num_tokens, width = tokens.shape
        first = self.attention(block=0, parent=None)
        tokens = kernels.pad(tokens, first.padded(batch, width, grid, once=True), axes=(1,))
        draws = self._draw(batch, train)
        i = 0
        while i < len(self.names):
            stacks = self._stacks_from(i)
            if stacks:
                tokens = self._scan(tokens, grid, train, draws, i, stacks)
                i += sum(map(len, stacks.values()))
                continue
            block = self._make_block(i, jax.tree.map(lambda x, i=i: x[i], draws), self.names[i])
            apply: Any = functools.partial(_apply, grid=grid, train=train)
            if self.remat != "none" and not self.is_initializing():
                apply = nn.remat(apply, policy=self._policy)
            tokens = apply(block, tokens)
            if self.conditional and not i:
                tokens = self.conditional(name=f"{self.names[i]}_posemb")(tokens, grid)
            i += 1
        return tokens[:, :num_tokens]

    @property
    def _policy(self) -> Any:
        """Returns whether an array is kept for the backward pass."""
        return jax.checkpoint_policies.save_only_these_names(*REMATS[self.remat])

    def _draw(self, batch: int, train: bool) -> Draws:
        """Draw everything that is random in the blocks: once, as a few arrays."""
        factors = keys = None
        if train and any(self.drop_rates):
            factors = drop_path_factors(self.make_rng("dropout"), self.drop_rates, batch)
        if train and self.has_rng("dropout"):
            keys = jax.random.split(self.make_rng("dropout"), (len(self.names), 3))
        return Draws(factors, keys)

    def _make_block(self, index: int, draws: Draws, name: str | None, **where: Any) -> Any:
        """Return the module of a block.

        Args:
          index: Index of the block.
          draws: Its random draws.
          name: Its name.
          **where: `parent=None` for a module that is applied on its own.
        """
        keys = (None, None, None) if draws.keys is None else draws.keys
        return self.block(
            attention=functools.partial(self.attention, block=index, dropout_key=keys[1]),
            mlp=functools.partial(self.mlp, dropout_key=keys[2]),
            factors=draws.factors,
            name=name,
            **where,
        )

    def _stacks_from(self, index: int) -> dict[str, tuple[str, ...]]:
        """Return the stacks that begin at a block, with the names of their layers.

        They are one stack per block of a period, or none.
        """
        params = self.variables.get("params", {})
        for end in range(len(self.names), index + self.period, -1):
            runs = [self.names[index + j : end : self.period] for j in range(self.period)]
            stacks = {stack_name(run): run for run in runs}
            if stacks.keys() <= params.keys():
                return stacks
        return {}

    def _scan(
        self,
        tokens: Array,
        grid: Grid,
        train: bool,
        draws: Draws,
        first: int,
        stacks: dict[str, tuple[str, ...]],
    ) -> Array:
        """Apply the blocks of some stacks, the first of which has the index `first`."""
        layers = sum(map(len, stacks.values()))
        periods = layers // self.period
        draws = jax.tree.map(
            lambda x: x[first : first + layers].reshape(periods, self.period, *x.shape[1:]), draws
        )
        collections = {
            name: [tree[stack] for stack in stacks]
            for name, tree in self.variables.items()
            if stacks.keys() <= tree.keys()
        }
        mutable = [name for name in collections if self.is_mutable_collection(name)]

        def apply_block(j: int, variables: Any, tokens: Array, draws: Draws) -> Any:
            block = self._make_block(first + j, draws, None, parent=None)
            rngs = {} if draws.keys is None else {"dropout": draws.keys[0]}
            return block.apply(
                variables, tokens, grid, method=_apply, train=train, rngs=rngs, mutable=mutable
            )

        def apply_period(tokens: Array, inputs: tuple[Any, Draws]) -> tuple[Array, Any]:
            collections, draws = inputs
            updates = []
            for j in range(self.period):
                variables = {name: trees[j] for name, trees in collections.items()}
                apply: Any = functools.partial(apply_block, j)
                if self.remat != "none":
                    apply = jax.checkpoint(apply, policy=self._policy, prevent_cse=False)
                tokens, update = apply(variables, tokens, jax.tree.map(lambda x, j=j: x[j], draws))
                updates.append(dict(update))
            return tokens, updates

        tokens, updates = jax.lax.scan(apply_period, tokens, (collections, draws))
        for stack, update in zip(stacks, updates, strict=True):
            for collection, tree in update.items():
                self.put_variable(collection, stack, tree)
        return tokens


def stack_name(layers: tuple[str, ...]) -> str:
    """Return the name of the stack of these layers."""
    return f"{layers[0]}_to_{layers[-1]}"


def _apply(block: nn.Module, tokens: Array, grid: Grid, *, train: bool) -> Array:
    tokens = block(tokens, grid, train=train)
    return nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
