"""Multi-head attention: what all kinds share, and attention to every token."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb.rotary import rotate

Part = Callable[..., nn.Module]

# Each of the stacked projections is initialized by its own fans, not by those of the stack.
_QKV_INIT = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=0, out_axis=(2, 3), batch_axis=(1,)
)
_OUT_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2)

MAX_TEMPERATURE = 100.0  # of cosine attention


class HeadsIn(nn.Module):
    """Projects tokens to `num` stacks of per-head vectors, such as queries, keys and values.

    The kernel has the shape (d, num, heads, d / heads).
    """

    num: int
    num_heads: int
    key_bias: bool = True  # else the keys, second of three stacks, have none
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "num b n heads c"]:
        """Returns the stacks along the first dimension."""
        width = x.shape[-1]
        shape = (self.num, self.num_heads, width // self.num_heads)
        names = ("qkv", "heads", "kv")
        kernel_init = nn.with_logical_partitioning(_QKV_INIT, ("embed", *names))
        bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), names)
        kernel = self.param("kernel", kernel_init, (width, *shape), jnp.float32)
        if self.key_bias:
            bias: Any = self.param("bias", bias_init, shape, jnp.float32)
        else:
            bias = self.param("bias_qv", bias_init, (2, *shape[1:]), jnp.float32)
            bias = jnp.insert(bias, 1, 0.0, axis=0)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bnd,dshc->sbnhc", x, kernel) + bias[:, None, None]
        return nn.with_logical_constraint(x, ("qkv", "batch", "tokens", "heads", "kv"))


class HeadsOut(nn.Module):
    """Joins the heads again: a linear map with a kernel of shape (heads, d / heads, d)."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n heads c"]) -> Float[Array, "b n d"]:
        """Returns one vector a token."""
        _, _, num_heads, head_dim = x.shape
        kernel_init = nn.with_logical_partitioning(_OUT_INIT, ("heads", "kv", "embed"))
        width = num_heads * head_dim
        shape = (num_heads, head_dim, width)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (width,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return jnp.einsum("bnhc,hcd->bnd", x, kernel) + bias


class Attention(nn.Module):
    """Self-attention: the fields of every kind, and what comes before and after a kind's own part.

    Letters: b batch, n tokens of which p are prefix tokens, d width, c channels of a head.
    """

    num_heads: int
    qk_norm: bool = False  # LayerNorm of queries and keys (Dehghani et al. 2023, section 2)
    cosine: bool = False  # of queries and keys, with a learned temperature (Liu et al. 2022, eq. 2)
    norm_eps: float = 1e-6
    rotary: Part | None = None  # turns queries and keys by their places
    bias: Part | None = None  # of the scores, by relative place
    attn_dropout: float = 0.0  # of the attention weights
    dropout: float = 0.0  # of the output
    dtype: str = "float32"
    block: int = 0  # number of the block; odd ones may look elsewhere than even ones
    window: tuple[int, int] = (7, 7)  # of window and dilated: height and width in tokens
    pad_order: str = "shift_pad"  # of window
    mask_padding: bool = False  # of window
    landmarks: int = 64  # of linformer and nystrom
    reduction: int = 2  # of reduced: the stride of its convolution

    cost: ClassVar[str]  # for n tokens, as text
    takes_bias: ClassVar[bool] = True
    has_weights: ClassVar[bool] = True  # a weight for each pair, that dropout could act on

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Maps tokens that lie as `grid` says to tokens."""
        q, k, v = self._scaled(*self._heads(x, grid))
        x = self._attend(q, k, v, grid, train)
        x = HeadsOut(dtype=self.dtype, name="out")(x)
        return nn.Dropout(self.dropout)(x, deterministic=not train)

    def _heads(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values, (b, n, heads, c)."""
        q, k, v = HeadsIn(3, self.num_heads, not self.cosine, dtype=self.dtype, name="qkv")(x)
        return q, k, v

    def _scaled(self, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        """Makes of queries and keys what scores are the products of."""
        if self.qk_norm:
            norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
            q, k = norm(name="q_norm")(q), norm(name="k_norm")(k)
        if not self.cosine:
            return q * q.shape[-1] ** -0.5, k, v
        init = nn.with_logical_partitioning(nn.initializers.constant(np.log(10.0)), ("heads",))
        log_scale: Any = self.param("logit_scale", init, (self.num_heads,), jnp.float32)
        scale = jnp.exp(jnp.minimum(log_scale, np.log(MAX_TEMPERATURE)))
        return (_unit(q) * scale[:, None]).astype(q.dtype), _unit(k).astype(k.dtype), v

    def _turned(
        self, q: Array, k: Array, grid: Grid, key_places: np.ndarray | None = None
    ) -> tuple[Array, Array]:
        """Turns queries and keys by their places, where the positions are rotary."""
        if self.rotary is None:
            return q, k
        rotary = self.rotary(self.num_heads, q.shape[-1], name="rotary")
        places = grid.places
        key_places = places if key_places is None else key_places
        return rotate(q, rotary(places)), rotate(k, rotary(key_places))

    def _bias(self, height: int, width: int, num_prefix: int) -> Array:
        """Returns the bias of the scores of a grid of this size, (heads or 1, n, n)."""
        if self.bias is None:
            return jnp.zeros((1, *2 * (num_prefix + height * width,)))
        return self.bias(self.num_heads, name="bias")(height, width, num_prefix)

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        """Returns what the queries find, (b, n, heads, c)."""
        raise NotImplementedError

    def _weigh(self, scores: Array, v: Array, train: bool, name: str = "attn_dropout") -> Array:
        """Returns the attention weights for scores of at least float32, in the values' dtype."""
        weights = jax.nn.softmax(scores).astype(v.dtype)
        return nn.Dropout(self.attn_dropout, name=name)(weights, deterministic=not train)


class FullAttention(Attention):
    """Every token to every token (Vaswani et al. 2017, section 3.2).

    The scores and the softmax are at least float32, whatever the compute dtype.
    """

    cost: ClassVar[str] = "n^2"

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._turned(q, k, grid)
        weights = self._weigh(scores(q, k) + self._bias(*grid), v, train)
        return jnp.einsum("bhnm,bmhc->bnhc", weights, v)


class FusedAttention(Attention):
    """The same function in one kernel that stores no scores (Dao et al. 2022), where there is one.

    See `implementation` for where; elsewhere XLA compiles the plain form.
    """

    cost: ClassVar[str] = "n^2 time, n memory"
    has_weights: ClassVar[bool] = False

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._turned(q, k, grid)
        name, _ = implementation(self.dtype, q.shape[-1], biased=self.bias is not None)
        bias = None
        if self.bias is not None:
            bias = self._bias(*grid)[None].astype(q.dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, scale=1.0, implementation=name)


def implementation(
    dtype: str, head_dim: int, *, biased: bool
) -> tuple[Literal["xla", "cudnn"], str]:
    """Returns what computes fused attention here, `cudnn` or `xla`, and why."""
    if jax.default_backend() != "gpu":
        return "xla", f"on {jax.default_backend()}"
    if dtype != "bfloat16":
        return "xla", f"cuDNN takes bfloat16, not {dtype}"
    if head_dim % 8 or head_dim > 128:
        return "xla", f"cuDNN takes heads of up to 128 channels, in eights, not {head_dim}"
    if biased:
        return "xla", "the position embedding biases the scores"
    return "cudnn", "on gpu"


class CrossAttention(nn.Module):
    """From tokens to those of another sequence (Vaswani et al. 2017, section 3.2)."""

    num_heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], context: Float[Array, "b m d"]
    ) -> Float[Array, "b n d"]:
        """Attends from `x` to `context`."""
        heads = functools.partial(HeadsIn, num_heads=self.num_heads, dtype=self.dtype)
        (q,), (k, v) = heads(num=1, name="q")(x), heads(num=2, name="kv")(context)
        weights = jax.nn.softmax(scores(q * q.shape[-1] ** -0.5, k)).astype(v.dtype)
        return HeadsOut(dtype=self.dtype, name="out")(jnp.einsum("bhnm,bmhc->bnhc", weights, v))


def scores(
    q: Float[Array, "b n heads c"], k: Float[Array, "b m heads c"]
) -> Float[Array, "b heads n m"]:
    """Returns the products of queries and keys, in at least float32."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum("bnhc,bmhc->bhnm", q, k, preferred_element_type=dtype)


def _unit(x: Array) -> Array:
    """Returns the vectors of length one, in at least float32; 0 stays 0."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
