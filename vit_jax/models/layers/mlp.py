"""Feed-forward networks of Transformer blocks."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from vit_jax.models.layers.activations import ACTIVATIONS, swiglu
from vit_jax.models.layers.linear import Linear
from vit_jax.models.parts import Component, fixed

# Names of the dimensions of the kernels.
_UP = ("embed", "mlp")
_DOWN = ("mlp", "embed")


class FeedForward(Component):
    """Base class of feed-forward networks, with the fields that the model sets."""

    mlp_dim: int  # hidden width
    dropout: float = 0.0  # dropout rate after each linear layer, except that of a gate
    dropout_key: Key[Array, ""] | None = None  # None: dropout draws from the module's own keys
    dtype: str = "float32"
    grad_dtype: str = ""  # of the gradients of linear layers; empty: `dtype`

    def _linear(
        self, x: Array, features: int, names: tuple[str, str], name: str, **init: Any
    ) -> Array:
        """Apply the linear layer `name`, whose kernel has dimensions with these names."""
        layer = Linear(
            features,
            names=names,
            dtype=self.dtype,
            grad_dtype=self.grad_dtype,
            name=name,
            **init,
        )
        return checkpoint_name(layer(x), name)

    def _drop(self, x: Array, index: int, train: bool) -> Array:
        """Apply the dropout that follows linear layer 0 or 1."""
        key = None if self.dropout_key is None else jax.random.fold_in(self.dropout_key, index)
        return nn.Dropout(self.dropout)(x, deterministic=not train, rng=key)


class Mlp(FeedForward):
    """Two linear layers with an activation in between (Vaswani et al. 2017, eq. 2)."""

    cost: ClassVar[str] = "2 n d m for a hidden width of m"

    activation: str = fixed(
        "gelu", "activation; gelu is exact, gelu_tanh its tanh approximation", choices=ACTIVATIONS
    )

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Apply the network to each token independently."""
        bias = nn.with_logical_partitioning(nn.initializers.normal(1e-6), ("mlp",))
        width = x.shape[-1]
        x = self._linear(x, self.mlp_dim, _UP, "fc1", bias_init=bias)
        x = ACTIVATIONS[self.activation](x)
        x = nn.with_logical_constraint(x, ("batch", "tokens", "mlp"))
        x = self._drop(x, 0, train)
        x = self._linear(x, width, _DOWN, "fc2", bias_init=nn.initializers.normal(1e-6))
        return self._drop(x, 1, train)


class SwiGlu(FeedForward):
    """SwiGLU: a linear layer gated by the SiLU of another, then a third (Shazeer 2020, section 2).

    `fc1` computes the gate, then the features that it gates, with `mlp_dim` channels each.
    """

    cost: ClassVar[str] = "3 n d m"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool) -> Float[Array, "b n d"]:
        """Apply the network to each token independently."""
        width = x.shape[-1]
        x = self._linear(x, 2 * self.mlp_dim, _UP, "fc1")
        gate, x = jnp.split(x, 2, axis=-1)
        x = nn.with_logical_constraint(swiglu(gate, x), ("batch", "tokens", "mlp"))
        x = self._drop(x, 0, train)
        x = self._linear(x, width, _DOWN, "fc2")
        return self._drop(x, 1, train)


MLPS: dict[str, type[FeedForward]] = {"mlp": Mlp, "swiglu": SwiGlu}
