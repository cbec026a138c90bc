"""The output of all models."""

import flax.struct
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid


@flax.struct.dataclass
class Output:
    """The output of a model for a batch of images.

    Shapes: b images, n tokens, width d, f features (d, or the width of the representation layer), k
    classes.
    """

    logits: Float[Array, "b k"]  # at least float32; k is 0 for a model without a head
    features: Float[Array, "b f"]  # input of the head: the pooled tokens, at least float32
    tokens: Float[Array, "b n d"]  # after the final norm; prefix tokens come first
    grid: Grid = flax.struct.field(pytree_node=False)  # layout of the tokens
    aux_logits: tuple[Float[Array, "b k"], ...] = ()  # of further heads, such as DeiT's
