"""Multi-head attention: the base classes of self-attention, and cross-attention."""

import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vit_jax.models.layers.attention import kernels
from vit_jax.models.layers.attention.projections import OutProjection, QKVProjection
from vit_jax.models.layers.attention.scores import scores
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb.rotary import rotate
from vit_jax.models.parts import Component, Constructor, Model, Part, Problem, fixed
from vit_jax.settings.fields import field

# Names of the dropouts of an attention, which have different random draws.
DROPOUTS = ("out_dropout", "attn_dropout", "prefix_dropout")

MAX_LOGIT_SCALE = 100.0  # of cosine attention, where tau > 0.01 (Liu et al. 2022, section 3.2)


class Attention(Component):
    """Base class of self-attention: project to queries, keys and values, attend, project back.

    Shapes: b images, n tokens of which the first p are prefix tokens, width d, c channels per head.
    """

    num_heads: int
    norm_eps: float = 1e-6
    rotary: Constructor | None = None  # rotary position embedding of queries and keys
    bias: Constructor | None = None  # relative position bias of the scores
    out_dropout: float = 0.0  # dropout rate of the output
    dropout_key: Key[Array, ""] | None = None  # None: dropout draws from the module's own keys
    dtype: str = "float32"
    grad_dtype: str = ""  # of the gradients of linear layers; empty: `dtype`
    block: int = 0  # index of the block; some attentions differ between even and odd blocks
    plain: bool = False  # attend by the matrix of `weigh`, even where another form is cheaper
    qk_norm: bool = fixed(False, "LayerNorm of queries and keys (Dehghani et al. 2023, section 2)")
    cosine: bool = fixed(
        False, "cosine attention with a learned temperature (Liu et al. 2022, Swin v2, eq. 2)"
    )
    qkv_bias: bool = fixed(True, "biases in the projections of queries, keys and values")

    cost: ClassVar[str]  # compute time for n tokens, as text
    weights: ClassVar[str] = "unknown"  # what `weigh` returns, or why there is no such matrix
    period: ClassVar[int] = 1  # the number of kinds of blocks, which alternate: `block` % period
    takes_bias: ClassVar[bool] = True  # whether it can add a relative position bias to the scores

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if the number of heads does not divide the width of a stage."""
        for width, num_heads in model.stages:
            if width % num_heads:
                yield "num_heads", f"{num_heads} does not divide width {width}"

    @nn.nowrap
    def choose(self, batch: int, width: int, grid: Grid) -> kernels.Choice | None:
        """Return the choice of a kernel for a batch of images; None if there is no choice."""
        return None

    @nn.nowrap
    def kernel_for(self, batch: int, width: int, grid: Grid) -> kernels.Kernel | None:
        """Return the fused kernel for a batch of images; None for the plain form."""
        choice = None if self.plain else self.choose(batch, width, grid)
        return choice.kernel if choice else None

    @nn.nowrap
    def padded(self, batch: int, width: int, grid: Grid, *, once: bool = False) -> int:
        """Return the number of tokens with padding for the kernel.

        Args:
          batch: Number of images.
          width: Width of the tokens.
          grid: Layout of the tokens without padding.
          once: Whether the padding is for all blocks, which not every kernel wants.
        """
        kernel = self.kernel_for(batch, width, grid)
        if kernel is None or (once and not kernel.pads_once):
            return grid.num_tokens
        return kernel.padded(grid.num_tokens)

    def weigh(
        self, q: Float[Array, "b i heads c"], k: Float[Array, "b i heads c"], grid: Grid
    ) -> Float[Array, "b heads i i"]:
        """Return the weight of each value in the output of each query, in at least float32.

        In the plain form, the output of each query is the sum of the values with these weights.
        Tokens are in the order in which they are projected; see `order`.

        Args:
          q: Queries.
          k: Keys.
          grid: Layout of the tokens.
        """
        raise NotImplementedError

    @property
    def is_mixture(self) -> bool:
        """Whether no weight is negative, so that each output is a mixture of values."""
        return True

    @nn.nowrap
    def order(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return where queries and keys are in the matrix of `weigh`, in the order of the grid.

        Args:
          grid: Layout of the tokens.

        Returns:
          The indices of the n tokens; and of these, followed by the padding if it takes weight.
        """
        tokens = np.arange(grid.num_tokens)
        return tokens, tokens

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply self-attention to tokens that have the layout `grid`; padding may follow."""
        num_tokens = x.shape[1]
        x = self._arrange(x, grid)
        q, k, v = self._project_qkv(x, grid)
        q, k = self._scale_qk(q, k)
        x = self._attend(q, k, v, grid, train)
        x = OutProjection(self.dtype, self.grad_dtype, name="out")(x)
        x = self._restore(x, grid)[:, :num_tokens]
        return self._drop(x, self.out_dropout, train, "out_dropout")

    def _drop(self, x: Array, rate: float, train: bool, name: str) -> Array:
        """Apply the dropout of this name, which is one of `DROPOUTS`."""
        key = self.dropout_key
        if key is not None:
            key = jax.random.fold_in(key, DROPOUTS.index(name))
        return nn.Dropout(rate, name=name)(x, deterministic=not train, rng=key)

    def _arrange(self, x: Array, grid: Grid) -> Array:
        """Return the tokens with padding, in the order in which they are projected."""
        batch, _, width = x.shape
        return kernels.pad(x, self.padded(batch, width, grid), axes=(1,))

    def _restore(self, x: Array, grid: Grid) -> Array:
        """Return the tokens in the order of the grid; padding may follow."""
        return x

    def _coords(self, grid: Grid) -> np.ndarray:
        """Return row and column of each token (n, 2), in the order in which they are projected."""
        return grid.coords

    def _project_qkv(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Return queries, keys and values, (b, n, heads, c)."""
        kernel = self.kernel_for(x.shape[0], x.shape[-1], grid)
        q, k, v = QKVProjection(
            3,
            self.num_heads,
            bias=self.qkv_bias,
            key_bias=not self.cosine,
            dtype=self.dtype,
            grad_dtype=self.grad_dtype,
            form=kernel.projection if kernel else "stacked",
            name="qkv",
        )(x)
        return q, k, v

    def _scale_qk(self, q: Array, k: Array) -> tuple[Array, Array]:
        """Normalize and scale queries and keys, so that their dot products are the scores."""
        if self.qk_norm:
            norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
            q = norm(name="q_norm")(q)
            k = norm(name="k_norm")(k)
        if not self.cosine:
            return q * q.shape[-1] ** -0.5, k
        init = nn.with_logical_partitioning(nn.initializers.constant(np.log(10.0)), ("heads",))
        log_scale: Any = self.param("logit_scale", init, (self.num_heads,), jnp.float32)
        scale = jnp.exp(jnp.minimum(log_scale, np.log(MAX_LOGIT_SCALE)))
        return (_normalize(q) * scale[:, None]).astype(q.dtype), _normalize(k).astype(k.dtype)

    def _rotate_qk(
        self, q: Array, k: Array, grid: Grid, key_coords: np.ndarray | None = None
    ) -> tuple[Array, Array]:
        """Apply the rotary position embedding to queries and keys, if there is one.

        `key_coords` are the coordinates of the keys, if they differ from those of the queries.
        """
        if self.rotary is None:
            return q, k
        rotary = self.rotary(num_heads=self.num_heads, head_dim=q.shape[-1], name="rotary")
        coords = self._coords(grid)
        key_coords = coords if key_coords is None else key_coords
        return rotate(q, rotary(coords)), rotate(k, rotary(key_coords))

    def _bias(self, height: int, width: int, num_prefix: int) -> Array:
        """Return the position bias of the scores, (heads or 1, n, n), for all n tokens."""
        if self.bias is None:
            num_tokens = num_prefix + height * width
            return jnp.zeros((1, num_tokens, num_tokens))
        return self.bias(num_heads=self.num_heads, name="bias")(height, width, num_prefix)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        """Return the attention output of each query, (b, n, heads, c)."""
        raise NotImplementedError


class WeightedAttention(Attention):
    """Base class of attention with one weight per pair of query and key, which supports dropout."""

    dropout: float = field(0.0, "dropout rate of the attention weights", low=0, below=1)

    @nn.nowrap
    def _choose(
        self,
        policy: str,
        batch: int,
        width: int,
        num_tokens: int,
        *,
        num_prefix: int = 0,
        masked: bool = False,
    ) -> kernels.Choice | None:
        """Return the choice of a kernel for a number of tokens that attend to each other.

        Args:
          policy: A name of `kernels.POLICIES`.
          batch: Number of images.
          width: Width of the tokens.
          num_tokens: Number of tokens that attend to each other.
          num_prefix: Number of prefix tokens that attend beside windows.
          masked: Whether some tokens of windows do not attend to each other.
        """
        if policy == "full":
            return None
        case = kernels.Case(
            *kernels.current_device(),
            self.dtype,
            num_tokens,
            head_dim=width // self.num_heads,
            num_prefix=num_prefix,
            masked=masked,
            biased=self.bias is not None,
            dropout=self.dropout,
            has_mesh=kernels.mesh_divides(batch, self.num_heads),
        )
        return kernels.choose(case, forced=policy == "fused")

    def _drop_weights(
        self, weights: Array, v: Array, train: bool, name: str = "attn_dropout"
    ) -> Array:
        """Return the weights (at least float32) in the dtype of the values `v`, with dropout."""
        return self._drop(weights.astype(v.dtype), self.dropout, train, name)


class CrossAttention(nn.Module):
    """Attention from one sequence of tokens to another (Vaswani et al. 2017, section 3.2)."""

    num_heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], context: Float[Array, "b m d"]
    ) -> Float[Array, "b n d"]:
        """Attend from the queries of `x` to the keys and values of `context`."""
        project = functools.partial(QKVProjection, num_heads=self.num_heads, dtype=self.dtype)
        (q,) = project(num=1, name="q")(x)
        k, v = project(num=2, name="kv")(context)
        x = weighted_sum(self.weigh(q, k), v)
        return OutProjection(dtype=self.dtype, name="out")(x)

    def weigh(
        self, q: Float[Array, "b n heads c"], k: Float[Array, "b m heads c"]
    ) -> Float[Array, "b heads n m"]:
        """Return the weight of each value in the output of each query, in at least float32."""
        return jax.nn.softmax(scores(q * q.shape[-1] ** -0.5, k))


def weighted_sum(
    weights: Float[Array, "b heads n m"], v: Float[Array, "b m heads c"]
) -> Float[Array, "b n heads c"]:
    """Return the sums of the values with some weights, in the dtype of the values."""
    return jnp.einsum("bhnm,bmhc->bnhc", weights.astype(v.dtype), v)


def _normalize(x: Array) -> Array:
    """Return the vectors divided by their length, in at least float32; zero vectors stay zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
