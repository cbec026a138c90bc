"""What all models return."""

import flax.struct
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import Grid


@flax.struct.dataclass
class Output:
    """The output of a model for a batch of images.

    Letters: b batch, n tokens, d width, f features (d, or the width of the representation layer),
    k classes.
    """

    logits: Float[Array, "b k"]  # at least float32; k is 0 for a model without classes
    features: Float[Array, "b f"]  # the input of the head: pooled tokens, in at least float32
    tokens: Float[Array, "b n d"]  # after the last norm; prefix tokens come first
    grid: Grid = flax.struct.field(pytree_node=False)  # how the tokens lie
    aux_logits: tuple[Float[Array, "b k"], ...] = ()  # of further heads; most models have none
