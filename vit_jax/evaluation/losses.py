"""Losses by name: each maps logits and targets to one value per example.

Shapes: b is the batch size, k the number of classes. Logits and targets are float32; targets are
probabilities.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Loss = Callable[[Float[Array, "b k"], Float[Array, "b k"]], Float[Array, " b"]]


def softmax(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Return the softmax cross-entropy."""
    return optax.softmax_cross_entropy(logits, targets)


def sigmoid(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Return the sum of the binary cross-entropies of the classes (Beyer et al. 2020, sec. 3.2)."""
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


def binary(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Return the mean of the binary cross-entropies of the classes; targets above 0 become 1.

    This is the loss of DeiT III (Touvron et al. 2022). A mixed image thus has both labels.
    """
    present = (targets > 0).astype(logits.dtype)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, present), axis=-1)


LOSSES: dict[str, Loss] = {"softmax": softmax, "sigmoid": sigmoid, "binary": binary}


def targets(
    labels: Int[Array, " b"], num_classes: int, smoothing: float = 0.0
) -> Float[Array, "b k"]:
    """Return one-hot targets with label smoothing (Szegedy et al. 2016, section 7)."""
    one_hot = jnp.equal(labels[:, None], jnp.arange(num_classes)).astype(jnp.float32)
    return one_hot * (1 - smoothing) + smoothing / num_classes
