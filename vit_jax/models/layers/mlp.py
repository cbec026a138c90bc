"""Feed-forward networks of a Transformer block; every entry of `MLPS` has the same fields."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

# Weights depend on the form: Google's were trained with the tanh form, timm's and Hugging Face's
# with the exact one.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


class Mlp(nn.Module):
    """Two linear layers with an activation between them (Vaswani et al. 2017, eq. 2)."""

    mlp_dim: int
    activation: str = "gelu"
    dropout: float = 0.0  # after each of the two layers
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Maps each token by itself."""
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
    """A linear layer gated by the SiLU of another (Shazeer 2020, section 2), then a third.

    `fc1` holds the first two, the gate before the gated. The activation is always SiLU.
    """

    mlp_dim: int  # of the gate, and of what it gates
    activation: str = "silu"
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Maps each token by itself."""
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
