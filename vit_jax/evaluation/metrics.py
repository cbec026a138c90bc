"""Evaluation metrics as sums over examples, so that any batching counts each example once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Sums = dict[str, Array]
LossFn = Callable[[Float[Array, "b k"], Float[Array, "b k"]], Float[Array, " b"]]  # logits, targets


def sums(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    losses: Float[Array, " b"],
    mask: Bool[Array, " b"],
) -> Sums:
    """Return the sums over the examples that the mask keeps; the counts are exact integers."""
    _, top = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = jnp.equal(top, labels[:, None]) & mask[:, None]
    return {
        "top1": jnp.sum(hits[:, :1], dtype=jnp.int32),
        "top5": jnp.sum(hits, dtype=jnp.int32),
        "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
        "count": jnp.sum(mask, dtype=jnp.int32),
    }


def means(totals: Mapping[str, Any]) -> dict[str, float | int]:
    """Return `{"top1", "top5", "loss"}` as means, and the `count` they are over."""
    count = int(totals["count"])
    result: dict[str, float | int] = {
        key: float(totals[key]) / count for key in ("top1", "top5", "loss")
    }
    return {**result, "count": count}


def zeros() -> Sums:
    """Return the sums over no examples."""
    return {
        "top1": jnp.zeros((), jnp.int32),
        "top5": jnp.zeros((), jnp.int32),
        "loss": jnp.zeros((), jnp.float32),
        "count": jnp.zeros((), jnp.int32),
    }
