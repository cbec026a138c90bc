"""Functions from logits to probabilities, by the name of the loss that a model was trained with."""

from collections.abc import Callable

import jax
from jaxtyping import Array

PROBABILITIES: dict[str, Callable[[Array], Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "binary": jax.nn.sigmoid,
}
