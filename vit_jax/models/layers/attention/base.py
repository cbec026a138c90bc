"""Multi-head attention: base classes, full and fused self-attention, and cross-attention."""

import functools
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.posemb.rotary import rotate
from vit_jax.models.parts import Component, Constructor, Model, Part, Problem, fixed
from vit_jax.settings.fields import field

# Xavier uniform, with the fan-in and fan-out of each projection rather than of the whole stack.
_QKV_INIT = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=0, out_axis=(2, 3), batch_axis=(1,)
)
_OUT_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2)

# Names of the dropouts of an attention, which have different random draws.
DROPOUTS = ("out_dropout", "attn_dropout", "prefix_dropout")

MAX_LOGIT_SCALE = 100.0  # of cosine attention, where tau > 0.01 (Liu et al. 2022, section 3.2)


class QKVProjection(nn.Module):
    """`num` linear projections of the tokens to per-head vectors, such as queries, keys and values.

    The kernel has the shape (d, num, heads, d / heads).
    """

    num: int
    num_heads: int
    bias: bool = True
    key_bias: bool = True  # False: no bias for the keys, which are the second of three projections
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "num b n heads c"]:
        """Return the projections, stacked along the first dimension."""
        width = x.shape[-1]
        shape = (self.num, self.num_heads, width // self.num_heads)
        names = ("qkv", "heads", "kv")
        kernel_init = nn.with_logical_partitioning(_QKV_INIT, ("embed", *names))
        bias_init = nn.with_logical_partitioning(nn.initializers.zeros_init(), names)
        kernel = self.param("kernel", kernel_init, (width, *shape), jnp.float32)
        if not self.bias:
            bias: Any = jnp.zeros(shape)
        elif self.key_bias:
            bias = self.param("bias", bias_init, shape, jnp.float32)
        else:
            bias = self.param("bias_qv", bias_init, (2, *shape[1:]), jnp.float32)
            bias = jnp.insert(bias, 1, 0.0, axis=0)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = jnp.einsum("bnd,dshc->sbnhc", x, kernel) + bias[:, None, None]
        x = nn.with_logical_constraint(x, ("qkv", "batch", "tokens", "heads", "kv"))
        return checkpoint_name(x, "qkv")


class OutProjection(nn.Module):
    """Linear projection of the concatenated heads, with a kernel of shape (heads, d / heads, d)."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n heads c"]) -> Float[Array, "b n d"]:
        """Return one vector per token."""
        _, _, num_heads, head_dim = x.shape
        kernel_init = nn.with_logical_partitioning(_OUT_INIT, ("heads", "kv", "embed"))
        width = num_heads * head_dim
        shape = (num_heads, head_dim, width)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (width,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return checkpoint_name(jnp.einsum("bnhc,hcd->bnd", x, kernel) + bias, "out")


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
    block: int = 0  # index of the block; some attentions differ between even and odd blocks
    qk_norm: bool = fixed(False, "LayerNorm of queries and keys (Dehghani et al. 2023, section 2)")
    cosine: bool = fixed(
        False, "cosine attention with a learned temperature (Liu et al. 2022, Swin v2, eq. 2)"
    )
    qkv_bias: bool = fixed(True, "biases in the projections of queries, keys and values")

    cost: ClassVar[str]  # compute time for n tokens, as text
    period: ClassVar[int] = 1  # 2: even and odd blocks differ
    takes_bias: ClassVar[bool] = True  # whether it can add a relative position bias to the scores

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield a problem if the number of heads does not divide the width of a stage."""
        for width, num_heads in model.stages:
            if width % num_heads:
                yield "num_heads", f"{num_heads} does not divide width {width}"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], grid: Grid, *, train: bool
    ) -> Float[Array, "b n d"]:
        """Apply self-attention to tokens that have the layout `grid`."""
        q, k, v = self._project_qkv(x, grid)
        q, k = self._scale_qk(q, k)
        x = self._attend(q, k, v, grid, train)
        x = OutProjection(dtype=self.dtype, name="out")(x)
        return self._drop(x, self.out_dropout, train, "out_dropout")

    def _drop(self, x: Array, rate: float, train: bool, name: str) -> Array:
        """Apply the dropout of this name, which is one of `DROPOUTS`."""
        key = self.dropout_key
        if key is not None:
            key = jax.random.fold_in(key, DROPOUTS.index(name))
        return nn.Dropout(rate, name=name)(x, deterministic=not train, rng=key)

    def _project_qkv(self, x: Array, grid: Grid) -> tuple[Array, Array, Array]:
        """Return queries, keys and values, (b, n, heads, c)."""
        q, k, v = QKVProjection(
            3,
            self.num_heads,
            bias=self.qkv_bias,
            key_bias=not self.cosine,
            dtype=self.dtype,
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
        coords = grid.coords
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

    def _attention_weights(
        self, scores: Array, v: Array, train: bool, name: str = "attn_dropout"
    ) -> Array:
        """Return the softmax of the scores (at least float32) in the dtype of `v`, with dropout."""
        weights = jax.nn.softmax(scores).astype(v.dtype)
        return self._drop(weights, self.dropout, train, name)


class FullAttention(WeightedAttention):
    """Softmax attention of every token to every token (Vaswani et al. 2017, section 3.2).

    Scores and softmax are computed in at least float32, whatever `dtype` is.
    """

    cost: ClassVar[str] = "n^2"

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._rotate_qk(q, k, grid)
        weights = self._attention_weights(scores(q, k) + self._bias(*grid), v, train)
        return jnp.einsum("bhnm,bmhc->bnhc", weights, v)


class FusedAttention(Attention):
    """Full attention by one fused kernel that does not store the scores (Dao et al. 2022).

    The kernel is cuDNN's, where `implementation` returns `cudnn`. Elsewhere XLA compiles the
    unfused computation.
    """

    cost: ClassVar[str] = "n^2 time, n memory"

    @classmethod
    def check(cls, part: Part, model: Model) -> Iterator[Problem]:
        """Yield also a problem if the kernel does not support the dtype."""
        yield from super().check(part, model)
        if model.dtype == "float64":
            yield "dtype", "fused attention computes its softmax in float32; use attention=full"

    def _attend(self, q: Array, k: Array, v: Array, grid: Grid, train: bool) -> Array:
        q, k = self._rotate_qk(q, k, grid)
        name, _ = implementation(self.dtype, q.shape[-1], biased=self.bias is not None)
        bias = None
        if self.bias is not None:
            bias = self._bias(*grid)[None].astype(q.dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, scale=1.0, implementation=name)


def implementation(
    dtype: str, head_dim: int, *, biased: bool
) -> tuple[Literal["xla", "cudnn"], str]:
    """Choose the implementation of fused attention on the current backend.

    Args:
      dtype: Compute dtype.
      head_dim: Number of channels per head.
      biased: Whether a position bias is added to the scores.

    Returns:
      `cudnn` or `xla`, and the reason as text.
    """
    if jax.default_backend() != "gpu":
        return "xla", f"on {jax.default_backend()}"
    if dtype != "bfloat16":
        return "xla", f"cuDNN needs bfloat16, not {dtype}"
    if head_dim % 8 or head_dim > 128:
        return "xla", f"cuDNN needs a multiple of 8 channels per head, at most 128, not {head_dim}"
    if biased:
        return "xla", "cuDNN needs scores without a position bias"
    return "cudnn", "on gpu"


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
        weights = jax.nn.softmax(scores(q * q.shape[-1] ** -0.5, k)).astype(v.dtype)
        x = jnp.einsum("bhnm,bmhc->bnhc", weights, v)
        return OutProjection(dtype=self.dtype, name="out")(x)


def scores(
    q: Float[Array, "b n heads c"], k: Float[Array, "b m heads c"]
) -> Float[Array, "b heads n m"]:
    """Return the dot products of queries and keys, in at least float32."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum("bnhc,bmhc->bhnm", q, k, preferred_element_type=dtype)


def _normalize(x: Array) -> Array:
    """Return the vectors divided by their length, in at least float32; zero vectors stay zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
