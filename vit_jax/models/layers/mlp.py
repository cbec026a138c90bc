"""Feed-forward networks of a Transformer block; all entries of `MLPS` have the same fields."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

# Google's weights were trained with the tanh approximation of GELU, timm's and Hugging Face's with
# the exact function.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


class Mlp(nn.Module):
    """Two linear layers with an activation in between (Vaswani et al. 2017, eq. 2)."""

    mlp_dim: int
    activation: str = "gelu"
    dropout: float = 0.0  # rate after each of the two layers
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Map each token independently."""
        up = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), ("embed", "mlp"))
        down = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), ("mlp", "embed"))
        bias = nn.with_logical_partitioning(nn.initializers.normal(1e-6), ("mlp",))
        width = x.shape[-1]
        x = nn.Dense(self.mlp_dim, kernel_init=up, bias_init=bias, dtype=self.dtype, name="fc1")(x)
        x = ACTIVATIONS[self.activation](x)
        x = nn.with_logical_constraint(x, ("batch", "tokens", "mlp"))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = nn.Dense(
            width,
            kernel_init=down,
            bias_init=nn.initializers.normal(1e-6),
            dtype=self.dtype,
            name="fc2",
        )(x)
        return nn.Dropout(self.dropout)(x, deterministic=not train)


class SwiGlu(nn.Module):
    """A linear layer gated by the SiLU of another, then a third (Shazeer 2020, section 2).

    `fc1` computes the gate and the gated features, in this order.
    """

    mlp_dim: int  # of the gate and of the gated features
    activation: str = "silu"  # unused: always SiLU
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Map each token independently."""
        up = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), ("embed", "mlp"))
        down = nn.with_logical_partitioning(nn.initializers.xavier_uniform(), ("mlp", "embed"))
        width = x.shape[-1]
        x = nn.Dense(2 * self.mlp_dim, kernel_init=up, dtype=self.dtype, name="fc1")(x)
        gate, x = jnp.split(x, 2, axis=-1)
        x = nn.with_logical_constraint(nn.silu(gate) * x, ("batch", "tokens", "mlp"))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = nn.Dense(width, kernel_init=down, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout)(x, deterministic=not train)


MLPS: dict[str, type[nn.Module]] = {"mlp": Mlp, "swiglu": SwiGlu}
