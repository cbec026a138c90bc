"""Multi-head attention."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Each of the stacked projections is initialized by its own fans, not by those of the stack.
_QKV_INIT = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=0, out_axis=(2, 3), batch_axis=(1,)
)
_OUT_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2)


class HeadsIn(nn.Module):
    """Projects tokens to `num` stacks of per-head vectors, such as queries, keys and values.

    The kernel has the shape (d, num, heads, d / heads).
    """

    num: int
    num_heads: int
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
        bias = self.param("bias", bias_init, shape, jnp.float32)
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
    """Multi-head attention (Vaswani et al. 2017, 3.2), of tokens to themselves or to others.

    The scores and the softmax are at least float32, whatever the compute dtype.
    """

    num_heads: int
    qk_norm: bool = False  # LayerNorm of queries and keys (Dehghani et al. 2023, section 2)
    norm_eps: float = 1e-6
    attn_dropout: float = 0.0  # of the attention weights
    dropout: float = 0.0  # of the output
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m d"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b n d"]:
        """Attends from `x` to `context`, or to `x` itself where there is none."""
        heads = functools.partial(HeadsIn, num_heads=self.num_heads, dtype=self.dtype)
        if context is None:
            q, k, v = heads(num=3, name="qkv")(x)
        else:
            (q,), (k, v) = heads(num=1, name="q")(x), heads(num=2, name="kv")(context)
        if self.qk_norm:
            norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
            q, k = norm(name="q_norm")(q), norm(name="k_norm")(k)
        scores = jnp.einsum(
            "bnhc,bmhc->bhnm",
            q * q.shape[-1] ** -0.5,
            k,
            preferred_element_type=jnp.promote_types(q.dtype, jnp.float32),
        )
        weights = jax.nn.softmax(scores).astype(v.dtype)
        weights = nn.Dropout(self.attn_dropout, name="attn_dropout")(
            weights, deterministic=not train
        )
        x = HeadsOut(dtype=self.dtype, name="out")(jnp.einsum("bhnm,bmhc->bnhc", weights, v))
        return nn.Dropout(self.dropout)(x, deterministic=not train)
