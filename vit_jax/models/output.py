"""What every model returns."""

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Output:
    """The result of a model for a batch of images.

    Letters: b batch, n tokens, d width, f features (d, or the size of the representation layer),
    k classes.
    """

    logits: Float[Array, "b k"]  # float32; k is 0 for a model without classes
    features: Float[Array, "b f"]  # pooled, what the head sees
    tokens: Float[Array, "b n d"]  # after the last norm; class token and registers come first
    aux_logits: tuple[Float[Array, "b k"], ...] = ()  # of further heads; most models have none
